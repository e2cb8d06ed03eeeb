"""What of a model set is loaded, as its files tell, and what of it lies otherwise on disk. Pure.

Triton does not say what it has read. So a model's files count as they were when it was seen to be
loaded, and are taken anew only when it was seen to be loaded anew.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from pydantic import TypeAdapter, ValidationError

from sidecar.health.progress import Counted
from sidecar.models.manifest import ModelFiles

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Load:
    """What tells one load of a model from the next.

    `restarts` counts those of Triton, `times` the loads of the model, as seen by this process.
    `versions` and `config`, a digest, are as Triton describes the model, if it is asked about it.
    """

    restarts: int = 0
    times: int = 0
    versions: tuple[str, ...] = ()
    config: str = ""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model's files as of a load; of one that is not loaded, as they lie on disk."""

    files: ModelFiles
    load: Load | None


@dataclass(frozen=True, slots=True)
class Memory:
    """What a sidecar leaves behind for its successor beside the same Triton.

    `boot` tells one start of the machine from the next. A model's counters are `counted` as they
    were: those of another load are not likely to follow them.
    """

    boot: str = ""
    models: tuple[Loaded, ...] = ()
    counted: Mapping[str, Counted | None] = field(default_factory=dict)


_MEMORIES = TypeAdapter(Memory)


def dump(memory: Memory) -> bytes:
    """The memory as JSON; what this process has counted begins anew in the next one."""
    models = tuple(
        replace(each, load=replace(each.load, restarts=0, times=0))
        for each in memory.models
        if each.load is not None
    )
    kept = {each.files.name for each in models}
    counted = {name: found for name, found in memory.counted.items() if name in kept and found}
    body = _MEMORIES.dump_python(Memory(memory.boot, models, counted), mode="json")
    return json.dumps({"format": _FORMAT, "memory": body}).encode()


def restore(document: bytes, boot: str) -> Memory:
    """The memory that was dumped since the machine was started.

    Nothing is remembered of an earlier time, and of a document that is not ours. Of a model whose
    counters were not known then nobody could say whether it was loaded anew meanwhile.
    """
    try:
        read = json.loads(document)
        if not isinstance(read, dict) or read.get("format") != _FORMAT:
            return Memory()
        memory = _MEMORIES.validate_python(read.get("memory"))
    except (ValueError, RecursionError, ValidationError):
        return Memory()
    if memory.boot != boot:
        return Memory()
    known = tuple(each for each in memory.models if memory.counted.get(each.files.name))
    return replace(memory, models=known)


def follow(
    kept: Iterable[Loaded], found: Iterable[ModelFiles], loads: Mapping[str, Load | None]
) -> tuple[Loaded, ...]:
    """What is loaded after a look at the disk.

    Args:
        kept: what was.
        found: the files of each model as they lie on disk now.
        loads: the load that each of these models is of; a model without one is not loaded.
    """
    known: dict[tuple[str, Load | None], Loaded] = {
        (each.files.name, each.load): each for each in kept if each.load is not None
    }
    now = (Loaded(files, loads.get(files.name)) for files in found)
    return tuple(known.get((each.files.name, each.load), each) for each in now)


def astray(kept: Iterable[Loaded], found: Iterable[ModelFiles]) -> tuple[str, ...]:
    """The models whose files on disk are not those that are loaded, by name."""
    known = {each.files.name: each.files for each in kept}
    return tuple(sorted(each.name for each in found if each != known.get(each.name, each)))
