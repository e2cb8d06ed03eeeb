"""Whatever a settings file contains is accepted, or refused in our own words."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.local.planning import toml
from sidecar.recovery import actions
from sidecar.runtime.errors import ConfigError
from sidecar.settings import load_sidecar
from sidecar.settings.canaries import build_all
from sidecar.settings.tables.canary import (
    CanaryExpectation,
    CanaryInput,
    CanarySettings,
    ImageExpectation,
    LatencySettings,
)
from sidecar.settings.tables.gpu import GpuSettings
from sidecar.settings.tables.health import HealthSettings
from sidecar.settings.tables.recovery import (
    CommandAction,
    NomadAction,
    RecoverySettings,
    SignalAction,
    SystemdAction,
)

pytestmark = pytest.mark.files

Tree = st.SearchStrategy[Any]

ODD = st.sampled_from([
    *(0, 1, -1, 2**31, 2**63 - 1, 2**63, -(2**63), 2**64, 10**400),
    *(0.0, 1e308, -1e308, 5e-324, float("inf"), float("-inf"), float("nan"), 0.5),
    *("", "0", "-1s", "1ms", "1 week", "5%", "9" * 500 + "GiB", "1e9h", "*", "**", "a.npy", "/"),
    *("a.png", "s.json", "\0", "\n", "\u2028", "a" * 300, "(", "BYTES", "FP32", "INT8"),
    *("MODEL_HUNG", "nomad", "command", "signal", "systemd", "$ref", "true", True, False),
])  # fmt: skip
SCALARS = ODD | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
FLAT = st.lists(ODD, max_size=4)


def some(values: Mapping[str, Tree]) -> Tree:
    """A table with one or two of these keys, so that no mistake is hidden behind others."""
    return st.lists(st.sampled_from(sorted(values)), min_size=1, max_size=2, unique=True).flatmap(
        lambda keys: st.fixed_dictionaries({key: values[key] for key in keys})
    )


def table(keys: Iterable[str], **known: Tree) -> Tree:
    """A table with some of these keys, whose values may be anything unless they are known."""
    values = {key: known.get(key, SCALARS | FLAT | ANYTHING) for key in keys} | {"odd": ANYTHING}
    right = some(values)
    return st.one_of(right, right, right, ANYTHING)


def completed(tree: Tree, **right: object) -> Tree:
    """The table, with valid values for the other keys."""
    return tree.map(lambda given: right | given if isinstance(given, dict) else given)


INPUT = completed(
    table(CanaryInput.model_fields, shape=FLAT, data=FLAT),
    name="x", datatype="FP32", shape=[1], data=[1],
)  # fmt: skip
EXPECT = completed(
    table(
        CanaryExpectation.model_fields,
        image=table(ImageExpectation.model_fields),
        json_schema=ANYTHING,
    ),
    output="y",
    finite=True,
)
CANARY = completed(
    table(
        CanarySettings.model_fields,
        inputs=st.lists(INPUT, max_size=2),
        steps=st.lists(st.lists(INPUT, max_size=2), max_size=2),
        expect=st.lists(EXPECT, max_size=2),
        latency=table(LatencySettings.model_fields),
    ),
    inputs=[{"name": "x", "datatype": "INT8", "shape": [1], "data": [1]}],
    expect=[{"output": "y", "finite": True}],
)
ACTION = table({
    key
    for action in (SystemdAction, NomadAction, CommandAction, SignalAction)
    for key in action.model_fields
})  # fmt: skip
SETTINGS = some(
    {
        "canary": st.fixed_dictionaries({}, optional={"x": CANARY, "x.y": CANARY}),
        "health": table(HealthSettings.model_fields),
        "gpu": table(GpuSettings.model_fields),
        "recovery": table(RecoverySettings.model_fields, action=ACTION),
    }
)


@pytest.fixture(scope="module", autouse=True)
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("fuzz"))
    yield
    os.chdir(before)


def check(path: Path | None, flags: Mapping[str, object]) -> None:
    """What `--check-config` does, and what is guaranteed about each line."""
    try:
        found = load_sidecar(path, flags)
        build_all(found)
        if found.recovery.action is not None:
            actions.build(found.recovery.action.restart, found.triton.grpc)
        found.model_dump_json()
    except ConfigError as error:
        lines = str(error).splitlines()
        assert lines
        for line in lines:
            assert ": " in line
            assert len(line) < 1000
            for foreign in ("Input should", "Tuple should", "Value error", "validation error"):
                assert foreign not in line


@given(tree=SETTINGS)
@example(tree={"canary": {"x": {"expect": [{"output": "y", "allclose": [10**400]}]}}})
@example(tree={"gpu": {"memory_warning": "9" * 500 + "GiB"}})
def test_any_settings_are_accepted_or_refused(tree: dict[str, object]) -> None:
    check(None, {"triton.models": ["x", "x.y"], **tree})


@given(tree=SETTINGS)
def test_any_toml_file_is_accepted_or_refused(tree: dict[str, object]) -> None:
    path = Path("sidecar.toml")
    with contextlib.suppress(UnicodeEncodeError):  # lone surrogates are not TOML
        path.write_text(toml.dumps({"triton": {"models": ["x", "x.y"]}, **tree}), encoding="utf-8")
        check(path, {})


@given(text=st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_any_file_is_read_or_refused(text: str) -> None:
    path = Path("any.toml")
    path.write_bytes(text.encode(errors="surrogatepass"))
    check(path, {})
