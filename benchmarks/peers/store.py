"""The results of runs, one JSON file each, so that a long benchmark can be continued."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.peers.design import Design
from benchmarks.peers.faults import Fault
from benchmarks.peers.figures import Seen
from sidecar.local.meshfile import write_whole


@dataclass(frozen=True, slots=True)
class Result:
    """A run: what was seen, or why there is nothing. `at` is ISO 8601 in UTC."""

    design: str
    scenario: str
    at: str
    seen: Seen | None = None
    reason: str = ""


class Store:
    """Results in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, design: Design, fault: Fault) -> Result | None:
        """The result of a run that was made, if one was."""
        path = self._path(design.name, fault.name)
        if not path.is_file():
            return None
        document = json.loads(path.read_text(encoding="utf-8"))
        found = document.pop("seen")
        return Result(**document, seen=Seen(**found) if found else None)

    def put(self, result: Result) -> None:
        """Keep a result, in place of an earlier one."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._path(result.design, result.scenario), json.dumps(asdict(result)))

    def _path(self, design: str, scenario: str) -> Path:
        return self._folder / f"{design.replace('/', '.')}.{scenario}.json"
