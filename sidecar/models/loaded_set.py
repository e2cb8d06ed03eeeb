"""What of a model set is loaded, as its files tell, and what of it lies otherwise on disk. Pure.

Triton does not say what it has read. So a model's files count as they were when it was seen to be
loaded, and are taken anew only when it was seen to be loaded anew.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from pydantic import TypeAdapter, ValidationError

from sidecar.health.canary.derived_canary import Proven
from sidecar.health.progress import Counted
from sidecar.models.manifest import ModelFiles

_FORMAT = 3


@dataclass(frozen=True, slots=True)
class LoadId:
    """What tells one load of a model from the next.

    `restarts` counts those of Triton, `times` the loads of the model, as seen by this process.
    `versions` and `config`, a digest, are as Triton describes the model, if it is asked about it.
    """

    restarts: int = 0
    times: int = 0
    versions: tuple[str, ...] = ()
    config: str = ""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model's files as of a load; of one that is not loaded, as they lie on disk."""

    files: ModelFiles
    load: LoadId | None


@dataclass(frozen=True, slots=True)
class LoadedSet:
    """What a sidecar leaves behind for its successor beside the same Triton.

    `boot` tells one start of the machine from the next. A model's counters are `counted` as they
    were: those of another load are not likely to follow them. What derived canaries have `proven`
    outlives Triton and the machine's start.
    """

    boot: str = ""
    models: tuple[LoadedModel, ...] = ()
    counted: Mapping[str, Counted] = field(default_factory=dict)
    proven: Mapping[str, Proven] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Header:
    """The first line: no other file of ours has `loaded_models`, the format."""

    loaded_models: int
    instance: str


_HEADERS = TypeAdapter(_Header)
_MEMORIES = TypeAdapter(LoadedSet)


def dump(memory: LoadedSet, instance: str) -> bytes:
    """An instance's memory as two lines of JSON: whose it is, and what.

    What this process has counted begins anew in the next one.
    """
    models = tuple(
        replace(each, load=replace(each.load, restarts=0, times=0))
        for each in memory.models
        if each.load is not None
    )
    kept = {each.files.name for each in models}
    counted = {name: found for name, found in memory.counted.items() if name in kept}
    body = _MEMORIES.dump_json(replace(memory, models=models, counted=counted))
    header = _HEADERS.dump_json(_Header(_FORMAT, instance))
    return b"%s\n%s\n" % (header, body)


def foreign(first: bytes, instance: str) -> str:
    """Why what begins with this line is not an instance's to replace; empty if it is.

    What is empty is anybody's. A memory of another format is of another release.
    """
    if not first:
        return ""
    try:
        owner = _HEADERS.validate_json(first).instance
    except ValidationError:
        return "expected a sidecar's saved state, found another file"
    if owner != instance:
        return f"expected the saved state of instance {instance!r}, found that of {owner!r:.80}"
    return ""


def restore(document: bytes, instance: str, boot: str) -> LoadedSet:
    """What an instance has dumped since the machine was started.

    Nothing is remembered of what was loaded at an earlier time, or where nothing tells it from now,
    and nothing at all of a document that is not ours. Of a model whose counters were not known then
    nobody could say whether it was loaded anew meanwhile.
    """
    first, _, body = document.partition(b"\n")
    try:
        if _HEADERS.validate_json(first) != _Header(_FORMAT, instance):
            return LoadedSet()
        memory = _MEMORIES.validate_json(body)
    except ValidationError:
        return LoadedSet()
    if not boot or memory.boot != boot:
        return LoadedSet(proven=memory.proven)
    known = tuple(each for each in memory.models if each.files.name in memory.counted)
    return replace(memory, models=known)


def follow(
    kept: Iterable[LoadedModel], found: Iterable[ModelFiles], loads: Mapping[str, LoadId | None]
) -> tuple[LoadedModel, ...]:
    """What is loaded after a look at the disk.

    Args:
        kept: what was.
        found: the files of each model as they lie on disk now.
        loads: the load that each of these models is of; a model without one is not loaded.
    """
    known: dict[tuple[str, LoadId | None], LoadedModel] = {
        (each.files.name, each.load): each for each in kept if each.load is not None
    }
    now = (LoadedModel(files, loads.get(files.name)) for files in found)
    return tuple(known.get((each.files.name, each.load), each) for each in now)


def changed_on_disk(kept: Iterable[LoadedModel], found: Iterable[ModelFiles]) -> tuple[str, ...]:
    """The models whose files on disk are not those that are loaded, by name."""
    known = {each.files.name: each.files for each in kept}
    return tuple(sorted(each.name for each in found if each != known.get(each.name, each)))
