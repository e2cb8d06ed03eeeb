"""The loaded model set by its files, and the differences from the files on disk. Pure.

Triton does not report which files it has read. So a model's files count as they were when the model
was seen to be loaded, and again only when it was seen to be reloaded.
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
    """The identity of one load of a model.

    `restarts` counts restarts of Triton, `times` loads of the model, as seen by this process.
    `versions` and `config`, a digest, are from Triton's description of the model, if there is one.
    """

    restarts: int = 0
    times: int = 0
    versions: tuple[str, ...] = ()
    config: str = ""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model's files as of a load, or as on disk if it is not loaded (`load` is None)."""

    files: ModelFiles
    load: LoadId | None


@dataclass(frozen=True, slots=True)
class LoadedSet:
    """The state that a sidecar saves for its successor next to the same Triton.

    `boot` identifies the boot of the machine. `counted` has each model's counters: those of another
    load are unlikely to continue them. What derived canaries have `proven` outlives restarts of
    Triton and of the machine.
    """

    boot: str = ""
    models: tuple[LoadedModel, ...] = ()
    counted: Mapping[str, Counted] = field(default_factory=dict)
    proven: Mapping[str, Proven] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Header:
    """The first line; only this kind of file has `loaded_models`, the format version."""

    loaded_models: int
    instance: str


_HEADERS = TypeAdapter(_Header)
_LOADED_SETS = TypeAdapter(LoadedSet)


def dump(saved: LoadedSet, instance: str) -> bytes:
    """An instance's state as two lines of JSON: the header, and the loaded set.

    The counts of this process, `restarts` and `times`, start at 0 in the next one.
    """
    models = tuple(
        replace(each, load=replace(each.load, restarts=0, times=0))
        for each in saved.models
        if each.load is not None
    )
    kept = {each.files.name for each in models}
    counted = {name: found for name, found in saved.counted.items() if name in kept}
    body = _LOADED_SETS.dump_json(replace(saved, models=models, counted=counted))
    header = _HEADERS.dump_json(_Header(_FORMAT, instance))
    return b"%s\n%s\n" % (header, body)


def foreign(first: bytes, instance: str) -> str:
    """Why an instance must not replace a file with this first line; empty if it may.

    Any instance may replace an empty file, and its own file of another format version.
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
    """The state that an instance has dumped during this boot of the machine.

    From an earlier or unknown boot, only `proven` is restored; from another instance's file,
    nothing. A model without saved counters is dropped, because a reload since could not be noticed.
    """
    first, _, body = document.partition(b"\n")
    try:
        if _HEADERS.validate_json(first) != _Header(_FORMAT, instance):
            return LoadedSet()
        saved = _LOADED_SETS.validate_json(body)
    except ValidationError:
        return LoadedSet()
    if not boot or saved.boot != boot:
        return LoadedSet(proven=saved.proven)
    known = tuple(each for each in saved.models if each.files.name in saved.counted)
    return replace(saved, models=known)


def follow(
    kept: Iterable[LoadedModel], found: Iterable[ModelFiles], loads: Mapping[str, LoadId | None]
) -> tuple[LoadedModel, ...]:
    """The loaded models after a scan of the disk.

    Args:
        kept: the loaded models before.
        found: each model's files on disk now.
        loads: each model's current load; a model without one is not loaded.
    """
    known: dict[tuple[str, LoadId | None], LoadedModel] = {
        (each.files.name, each.load): each for each in kept if each.load is not None
    }
    now = (LoadedModel(files, loads.get(files.name)) for files in found)
    return tuple(known.get((each.files.name, each.load), each) for each in now)


def changed_on_disk(kept: Iterable[LoadedModel], found: Iterable[ModelFiles]) -> tuple[str, ...]:
    """The names of the models whose files on disk are not the loaded ones."""
    known = {each.files.name: each.files for each in kept}
    return tuple(sorted(each.name for each in found if each != known.get(each.name, each)))
