"""Changed wording for every sentence that one program writes where another could read it.

A test module that imports `any_words` runs each of its tests twice, the second time with changed
wording. A test that fails then depends on a sentence: either it tests the wording, and is marked
`wording`, or a program reads prose, which it must not (docs/decisions/0064).
"""

import json
import string
from typing import Any

import pytest

from sidecar.election import candidates
from sidecar.election.keys import lock
from sidecar.registry import registration
from sidecar.registry.checks import WITHDRAWAL_META
from sidecar.verdict import verdict_line
from sidecar.verdict.evidence import Reason
from sidecar.verdict.verdict_line import State
from tests.support.consul_model import ConsulModel

# The keys of sentences in documents of Consul's KV and in an entry's meta.
_FIELDS = {"why", "cause", "reason"}
_META = {
    registration.UNFIT_META,
    registration.PAUSED_META,
    registration.DIFFERS_META,
    WITHDRAWAL_META,
}


_SETS = (string.ascii_lowercase, string.ascii_uppercase, string.digits)
_OTHERS = str.maketrans("".join(_SETS), "".join(each[1:] + each[0] for each in _SETS))


def reworded(text: str) -> str:
    """Another sentence: no letter is as before; an empty one stays empty."""
    return text.translate(_OTHERS)


def reword(patch: pytest.MonkeyPatch) -> None:
    """Write every sentence with changed wording from now on."""
    write, dumps, meta = verdict_line.write, lock.dumps, registration._meta
    maintain, first_line = ConsulModel.maintain, candidates._first_line

    def other_line(state: State, reason: Reason, detail: str = "") -> str:
        return write(state, reason, reworded(detail))

    def other_document(value: object) -> bytes:
        return json.dumps(_document(json.loads(dumps(value)))).encode()

    def other_meta(*of: Any) -> dict[str, str]:
        return {key: reworded(said) if key in _META else said for key, said in meta(*of).items()}

    def other_maintenance(self: ConsulModel, service_id: str, reason: str | None) -> None:
        maintain(self, service_id, None if reason is None else reworded(reason))

    patch.setattr(verdict_line, "write", other_line)
    patch.setattr(lock, "dumps", other_document)
    patch.setattr(registration, "_meta", other_meta)
    patch.setattr(ConsulModel, "maintain", other_maintenance)
    patch.setattr(candidates, "_first_line", lambda check: reworded(first_line(check)))


def _document(value: Any) -> Any:
    if isinstance(value, list):
        return [_document(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: reworded(said) if key in _FIELDS and isinstance(said, str) else _document(said)
        for key, said in value.items()
    }


@pytest.fixture(autouse=True, params=["", "other words"])
def any_words(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param and request.node.get_closest_marker("wording") is None:
        reword(monkeypatch)
