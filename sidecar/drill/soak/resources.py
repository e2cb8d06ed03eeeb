"""Reads what the processes of a mesh use: /proc, and shared memory.

A process belongs to the mesh if it has its mark, and to a part if it is in that part's session.
What this process has started belongs to the drill, such as what impairs a network.

Acts: os.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from sidecar.drill.soak.resource_growth import Reading
from sidecar.local.processes.identity import Identity, identify, marked

DRILL = "drill"
_PROC = Path("/proc")
_SHM = Path("/dev/shm")  # noqa: S108 -- where POSIX shared memory lives on Linux
_PPID, _SESSION = 1, 3  # of the fields after the command's name, see proc(5)


def read(mesh_id: str, parts: Mapping[str, int | None], at: float) -> tuple[Reading, ...]:
    """A reading of every process of a mesh and of the drill; one that ends meanwhile is left out.

    Args:
        mesh_id: the mark of its processes.
        parts: the pid of each part's leader by the part's name, or None if it is not running.
        at: the time of the readings.
    """
    leaders = {pid: name for name, pid in parts.items() if pid is not None}
    mesh = {found: _mesh_name(found.pid, leaders) for found in marked(mesh_id)}
    drill = {found: _drill_name(found.pid) for found in _started_by(os.getpid())}
    # What the drill started for the mesh has the mark as well.
    return tuple(_readings({**drill, **mesh}, at))


def shared_memory(prefixes: Sequence[str]) -> Mapping[str, int]:
    """How many regions of shared memory there are of each prefix."""
    names = [entry.name for entry in _SHM.iterdir()] if _SHM.is_dir() else []
    counted = Counter(prefix for prefix in prefixes for name in names if name.startswith(prefix))
    return {f"/dev/shm/{prefix}": count for prefix, count in counted.items()}  # noqa: S108


def _readings(names: Mapping[Identity, str], at: float) -> Iterator[Reading]:
    for found, name in names.items():
        folder = _PROC / str(found.pid)
        try:
            rss = _resident((folder / "status").read_text())
            descriptors = sum(1 for _ in (folder / "fd").iterdir())
        except OSError:  # it has ended
            continue
        if identify(found.pid) == found:
            yield Reading(at, name, (found.pid, found.start), rss, descriptors)


def _resident(status: str) -> int:
    """Bytes of resident memory; 0 for a process that is ending."""
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def _mesh_name(pid: int, leaders: Mapping[int, str]) -> str:
    if pid in leaders:
        return leaders[pid]
    part = leaders.get(_stat(pid, _SESSION), "")
    return f"{part} {_program(pid)}".strip()


def _drill_name(pid: int) -> str:
    return DRILL if pid == os.getpid() else f"{DRILL} {_program(pid)}"


def _program(pid: int) -> str:
    """The name of a program; of a Python module, the module's."""
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    if "-m" in words[1:-1]:
        return words[words.index("-m", 1) + 1]
    return Path(words[0]).name


def _started_by(pid: int) -> Iterator[Identity]:
    """A process, and all that it and they have started."""
    parents = {int(entry.name): _stat(int(entry.name), _PPID) for entry in _numbered()}
    family = [pid]
    for member in family:
        family += [child for child, parent in parents.items() if parent == member]
    yield from filter(None, map(identify, family))


def _numbered() -> Iterable[Path]:
    return (entry for entry in _PROC.iterdir() if entry.name.isdigit())


def _stat(pid: int, number: int) -> int:
    """A field of /proc/PID/stat; -1 if the process has ended."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return -1
    return int(stat[stat.rindex(")") + 2 :].split()[number])
