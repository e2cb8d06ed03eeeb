"""The results of runs in one committed file: tables are made of it, and it is continued."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.design import Design
from benchmarks.peers.faults import Fault
from benchmarks.peers.figures import Seen
from sidecar.local.meshfile import write_whole

_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Session:
    """A call of the benchmark: when it began (ISO 8601 in UTC), and what its runs were made with.

    `jobs` is how many runs went on at a time, `share` how much of each fault's time was waited.
    """

    began: str
    command: str
    machine: str
    versions: str
    load: str
    jobs: int
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Result:
    """A run: what was seen, or why there is nothing. `at` is ISO 8601 in UTC.

    `outdated` says what has changed since, so that it is to be run again; empty if nothing has.
    """

    design: str
    scenario: str
    at: str
    session: Session
    seen: Seen | None = None
    reason: str = ""
    outdated: str = ""

    @property
    def holds(self) -> bool:
        """Whether it need not be run again."""
        return self.seen is not None and not self.outdated


class Store:
    """Results in a file; without one they are kept in memory.

    Those of another `share` are kept, and are not given: a shortened run is no result.
    """

    def __init__(self, path: Path | None, share: float = 1.0) -> None:
        self._path, self._share = path, share
        found = _read(path.read_text(encoding="utf-8")) if path and path.is_file() else ()
        self._results = {(one.design, one.scenario, one.session.share): one for one in found}

    def get(self, design: Design, fault: Fault) -> Result | None:
        """The result of a run that was made, if one was."""
        return self._results.get((design.name, fault.name, self._share))

    def put(self, result: Result) -> None:
        """Keep a result in place of an earlier one, unless only the earlier one was measured."""
        key = result.design, result.scenario, result.session.share
        earlier = self._results.get(key)
        if result.seen is None and earlier and earlier.seen:
            return
        self._results[key] = result
        if self._path:
            write_whole(self._path, _text(self._results.values()))

    @property
    def sessions(self) -> list[Session]:
        """Those of the measured results, the first one first."""
        found = {one.session for one in self._results.values() if one.seen}
        own = [session for session in found if session.share == self._share]
        return sorted(own, key=lambda session: session.began)


def _text(results: Iterable[Result]) -> str:
    """One line for each session and result, so that a new result is one new line."""
    ordered = sorted(results, key=lambda one: (one.design, one.scenario, -one.session.share))
    sessions = sorted({one.session for one in ordered}, key=lambda one: (one.began, str(one)))
    lines = [json.dumps(_document(one, sessions.index(one.session))) for one in ordered]
    heads = [json.dumps(asdict(one)) for one in sessions]
    return f'{{"sessions": [\n{_joined(heads)}\n],\n"results": [\n{_joined(lines)}\n]}}\n'


def _joined(lines: Iterable[str]) -> str:
    return ",\n".join(lines)


def _document(result: Result, session: int) -> dict[str, Any]:
    made: dict[str, Any] = {**asdict(result), "session": session}
    if result.seen:
        made["seen"] = {name: _rounded(value) for name, value in asdict(result.seen).items()}
    return {name: value for name, value in made.items() if value not in (None, "")}


def _rounded(value: float | None) -> float | None:
    """JSON has no NaN."""
    if value is None or math.isnan(value):
        return None
    return round(value, _DIGITS)


def _read(text: str) -> Iterable[Result]:
    document = json.loads(text)
    sessions = [Session(**one) for one in document["sessions"]]
    for one in document["results"]:
        found = one.pop("seen", None)
        one["session"] = sessions[one["session"]]
        yield Result(**one, seen=_seen(found) if found else None)


def _seen(found: dict[str, Any]) -> Seen:
    unknown = {name: math.nan for name in ("p99", "p99_before") if found[name] is None}
    return Seen(**{**found, **unknown})
