"""Copies snapshots to another store: blobs first, the manifest next, names last.

Acts: through its backends.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sidecar.models.store import contents, naming, several
from sidecar.models.store.contents import Stored
from sidecar.models.store.documents import layout
from sidecar.models.store.documents.names import Reference
from sidecar.models.store.documents.tags import Tag
from sidecar.models.store.naming import NamingRequest
from sidecar.models.store.places.backend import Backend
from sidecar.models.store.progress import Progress
from sidecar.runtime.amounts import in_bytes
from sidecar.runtime.errors import Corrupt, NoRoom, Unavailable

_TRIES = 3  # at blobs that vanish while they are copied
_SPARE = 2**20  # bytes for folders and manifests


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied: a snapshot, its names there, the bytes sent, and those that were there."""

    stored: Stored
    tags: tuple[str, ...]
    new: int
    present: int


def copy(
    source: Backend,
    target: Backend,
    stored: Stored,
    tags: Iterable[tuple[str, Tag]],
    progress: Progress,
    *,
    move: bool = False,
) -> Copied:
    """Copy a snapshot and some of its names.

    Args:
        source: the store that has it.
        target: the store that gets it.
        stored: the snapshot.
        tags: the names that it gets, with what they are in the source.
        progress: counts the bytes that are sent.
        move: whether a name that another snapshot has there may move.

    Raises:
        Corrupt: a blob of the source is not what its digest says.
        Conflict: a name has another snapshot there.
        NoRoom: there is too little room.
    """
    target.prepare()
    target.tidy()
    try:
        new = _copy_blobs(source, target, stored, progress)
        # As it is: a later version may have written fields that this one does not know.
        target.put(layout.manifest(stored.digest), contents.manifest(source, stored.digest))
        given = []
        for tag, was in tags:
            name = Reference(stored.snapshot.model, tag)
            naming.name(target, stored.digest, NamingRequest(name, was.at, was.by, move))
            given.append(tag)
    finally:
        target.release()
    return Copied(stored, tuple(given), new, sum(stored.snapshot.blobs.values()) - new)


def _copy_blobs(source: Backend, target: Backend, stored: Stored, progress: Progress) -> int:
    """Copy what is missing until everything is there and claimed; gives the bytes sent."""
    sizes = {layout.blob(digest): size for digest, size in stored.snapshot.blobs.items()}
    sent: dict[str, int] = {}
    for _ in range(_TRIES):
        present = target.claim({layout.manifest(stored.digest), *sizes})
        missing = {key: size for key, size in sizes.items() if present.get(key) != size}
        if not missing:
            return sum(sent.values())
        _require(target, sum(missing.values()))
        progress.begin(f"copying {stored.snapshot.model}", sum(missing.values()))
        several.each(
            lambda key: _copy_blob(source, target, stored, key, sizes[key], progress),
            sorted(missing),
            sizes.__getitem__,
        )
        sent |= missing
    raise Unavailable(f"{target.place}: blobs vanish while they are copied; copy again")


def _copy_blob(
    source: Backend, target: Backend, stored: Stored, key: str, size: int, progress: Progress
) -> None:
    try:
        target.write(key, size, progress.through(source.chunks(key)))
    except Corrupt as error:
        files = [file.path for file in stored.snapshot.all_files if layout.blob(file.digest) == key]
        raise Corrupt(f"{source.place}: {stored}: {files[0]}: {error}") from error


def _require(target: Backend, needed: int) -> None:
    room = target.room()
    if room is not None and needed + _SPARE > room.free:
        raise NoRoom(
            f"{target.place}: {in_bytes(needed)} are to be copied, and {in_bytes(room.free)} of "
            f"{in_bytes(room.total)} are free"
        )


def chosen(source: Backend, names: Iterable[Reference]) -> list[tuple[Stored, dict[str, Tag]]]:
    """The snapshots that references mean, with their names; without references, all named ones.

    A model alone means all its named snapshots.

    Raises:
        NotFound: a reference means none.
    """
    wanted = list(names)
    found: dict[str, tuple[Stored, dict[str, Tag]]] = {}
    tags = contents.named(source)
    for (model, tag), was in tags.items():
        whole = not wanted or Reference(model) in wanted
        if whole or Reference(model, tag) in wanted:
            entry = found.setdefault(was.digest, (contents.read(source, was.digest), {}))
            entry[1][tag] = was
    for each in wanted:
        if each.digest or not any(_means(each, *name) for name in tags):
            stored = contents.resolve(source, each)
            found.setdefault(stored.digest, (stored, {}))
    return list(found.values())


def _means(wanted: Reference, model: str, tag: str) -> bool:
    return wanted.model == model and wanted.tag in ("", tag)
