"""DIR/state.json: the supervisor's state of its parts, for `status`, `down` and cleanup.

Unlike mesh.json it identifies processes unambiguously, and after a supervisor was killed it still
names everything that may be left over.

Acts: through what it imports or is given.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sidecar.local.meshfile import write_whole
from sidecar.local.processes.identity import Identity
from sidecar.runtime.errors import ConfigError, words

NAME = "state.json"

Phase = Literal["starting", "running", "stopping"]
Condition = Literal[
    "waiting", "starting", "running", "restarting", "dead", "stopping", "stopped"
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class PartState:
    """One part. `since` is when its process started, in Unix seconds; `exit` is its last code.

    A `restarting` part waits for its back-off; a `dead` one is not restarted; a negative `exit` is
    a signal's number.
    """

    name: str
    kind: str
    address: str
    log: Path
    condition: Condition = "waiting"
    process: Identity | None = None
    since: float | None = None
    restarts: int = 0
    exit: int | None = None


@dataclass(frozen=True, slots=True)
class MeshState:
    """A mesh, its supervisor, and what must be gone when it is down."""

    mesh: str
    phase: Phase
    supervisor: Identity
    ports: tuple[int, ...]
    shm_prefixes: tuple[str, ...]
    parts: tuple[PartState, ...]


def save(folder: Path, record: MeshState) -> None:
    """Write the state of a folder's mesh."""
    text = json.dumps(dataclasses.asdict(record), indent=1, default=str)
    write_whole(folder / NAME, text + "\n")


def load(folder: Path) -> MeshState | None:
    """The state of a folder's mesh, or None if there is none.

    Raises:
        ConfigError: the file was not written by this program.
    """
    path = folder / NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return MeshState(
            mesh=found["mesh"],
            phase=found["phase"],
            supervisor=Identity(**found["supervisor"]),
            ports=tuple(found["ports"]),
            shm_prefixes=tuple(found["shm_prefixes"]),
            parts=tuple(map(_part, found["parts"])),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: expected what `local up` writes: {words(error)}") from error


def _part(found: dict[str, Any]) -> PartState:
    process = found["process"]
    return PartState(
        **{
            **found,
            "log": Path(found["log"]),
            "process": Identity(**process) if process else None,
        }
    )
