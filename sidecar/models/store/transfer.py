"""Copies snapshots to another store: blobs first, the manifest next, names last.

Acts: through its backends.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sidecar.models.store import contents, naming, several
from sidecar.models.store.contents import Stored
from sidecar.models.store.documents import layout
from sidecar.models.store.documents.names import Reference
from sidecar.models.store.documents.tags import Tag
from sidecar.models.store.places.backend import Backend
from sidecar.models.store.progress import Progress
from sidecar.runtime.amounts import in_bytes
from sidecar.runtime.errors import Conflict, Corrupt, NoRoom, Rejected, Unavailable

_TRIES = 3  # at blobs that vanish while they are copied
_SPARE = 2**20  # bytes for folders and manifests


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is to be copied: a snapshot, and its names with what they are in the source."""

    stored: Stored
    tags: Mapping[str, Tag]


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied: a snapshot, its names there, the bytes sent, and those that were there.

    `conflicts` says which names have another snapshot there, and were left as they are.
    """

    stored: Stored
    tags: tuple[str, ...]
    new: int
    present: int
    conflicts: tuple[str, ...] = ()


def copy(
    source: Backend,
    target: Backend,
    wanted: Sequence[Chosen],
    progress: Progress,
    *,
    move: bool = False,
) -> list[Copied]:
    """Copy snapshots, and then their names; one that has another snapshot there stops no other.

    Args:
        source: the store that has them.
        target: the store that gets them.
        wanted: what to copy.
        progress: counts the bytes that are sent.
        move: whether a name that another snapshot has there may move.

    Raises:
        Corrupt: a blob of the source is not what its digest says.
        NoRoom: there is too little room.
    """
    target.prepare()
    target.tidy()
    try:
        sent = [_copy_snapshot(source, target, each.stored, progress) for each in wanted]
        return [_named(target, each, new, move) for each, new in zip(wanted, sent, strict=True)]
    finally:
        target.release()


def _copy_snapshot(source: Backend, target: Backend, stored: Stored, progress: Progress) -> int:
    """Copy the blobs and the manifest; gives the bytes sent."""
    new = _copy_blobs(source, target, stored, progress)
    # As it is: a later version may have written fields that this one does not know.
    target.put(layout.manifest(stored.digest), contents.manifest(source, stored.digest))
    return new


def _named(target: Backend, wanted: Chosen, new: int, move: bool) -> Copied:
    """Give a snapshot that is there its names."""
    snapshot = wanted.stored.snapshot
    given, conflicts = [], []
    for tag, was in wanted.tags.items():
        try:
            naming.restore(target, Reference(snapshot.model, tag), was, move=move)
            given.append(tag)
        except Conflict as error:
            conflicts.append(str(error))
    present = sum(snapshot.blobs.values()) - new
    return Copied(wanted.stored, tuple(given), new, present, tuple(conflicts))


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


def chosen(source: Backend, names: Iterable[Reference]) -> list[Chosen]:
    """The snapshots that references mean, with their names; without references, all named ones.

    A model alone means all its named snapshots. Those that had a name before come along, as far as
    the source still has them.

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
    named = [Chosen(stored, given) for stored, given in found.values()]
    return [*_before(source, named), *named]


def _before(source: Backend, wanted: Sequence[Chosen]) -> list[Chosen]:
    """The snapshots that had the names before; what cannot be read any more stays behind."""
    digests = dict.fromkeys(
        digest for each in wanted for was in each.tags.values() for digest in was.digests
    )
    found = []
    for digest in digests.keys() - {each.stored.digest for each in wanted}:
        with suppress(Rejected):
            found.append(Chosen(contents.read(source, digest), {}))
    return sorted(found, key=lambda each: (each.stored.snapshot.created, each.stored.digest))


def _means(wanted: Reference, model: str, tag: str) -> bool:
    return wanted.model == model and wanted.tag in ("", tag)
