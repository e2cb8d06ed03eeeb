"""What of a model set is loaded, as its files tell, and what of it lies otherwise on disk. Pure.

Triton does not say what it has read. So a model's files count as they were when it was seen to be
loaded, and are taken anew only when it was seen to be loaded anew.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

from sidecar.models.manifest import ModelFiles

Load = Hashable  # what tells one load of a model from the next; None if it is not loaded


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model's files as of a load; of one that is not loaded, as they lie on disk."""

    files: ModelFiles
    load: Load


def follow(
    kept: Iterable[Loaded], found: Iterable[ModelFiles], loads: Mapping[str, Load]
) -> tuple[Loaded, ...]:
    """What is loaded after a look at the disk.

    Args:
        kept: what was.
        found: the files of each model as they lie on disk now.
        loads: the load that each of these models is of; a model without one is not loaded.
    """
    known = {each.files.name: each for each in kept}
    return tuple(_one(known.get(files.name), files, loads.get(files.name)) for files in found)


def _one(kept: Loaded | None, files: ModelFiles, load: Load) -> Loaded:
    same = kept is not None and load is not None and kept.load == load
    return kept if kept and same else Loaded(files, load)


def astray(kept: Iterable[Loaded], found: Iterable[ModelFiles]) -> tuple[str, ...]:
    """The models whose files on disk are not those that are loaded, by name."""
    known = {each.files.name: each.files for each in kept}
    return tuple(sorted(each.name for each in found if each != known.get(each.name, each)))
