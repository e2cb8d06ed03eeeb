"""Gives names to snapshots.

Acts: through its backend.
"""

from contextlib import suppress
from dataclasses import dataclass

from sidecar.models.store import contents
from sidecar.models.store.contents import Stored
from sidecar.models.store.documents import layout, tags
from sidecar.models.store.documents.names import Reference, of_digest
from sidecar.models.store.documents.tags import Naming, Tag
from sidecar.models.store.places.backend import Backend
from sidecar.runtime.errors import Conflict, NotFound, Rejected

_TRIES = 5  # while others move the name


@dataclass(frozen=True, slots=True)
class NamingRequest:
    """The name, when (RFC 3339) and by whom it is given, and whether another may lose it."""

    name: Reference
    at: str
    by: str
    move: bool = False


def tag(backend: Backend, stored: Stored, request: NamingRequest) -> bool:
    """Name a snapshot that is there; whether that changed anything.

    Raises:
        Conflict: the name has another snapshot, and is not to be moved.
        NotFound: the snapshot, or a blob of it, has been removed.
    """
    try:
        keys = {layout.manifest(stored.digest), *map(layout.blob, stored.snapshot.blobs)}
        if lost := keys - backend.claim(keys).keys():
            raise NotFound(f"{stored} cannot be named: {backend.place} lacks {min(lost)}")
        return name(backend, stored.digest, request)
    finally:
        backend.release()


def name(backend: Backend, digest: str, request: NamingRequest) -> bool:
    """Write the document of a name, for a snapshot that is claimed; whether that changed anything.

    Raises:
        Conflict: the name has another snapshot, and is not to be moved; or others keep moving it.
    """
    given, key = request.name, layout.name(request.name.model, request.name.tag)
    now = Naming(digest, request.at, request.by)
    for _ in range(_TRIES):
        found = contents.tag_document(backend, given.model, given.tag)
        if found is None:
            if backend.create(key, tags.dump(Tag(now.digest, now.at, now.by))):
                return True
            continue
        document, current = found
        if current.digest == digest:
            return False
        if not request.move:
            raise _taken(given, current)
        _renew(backend, current.digest)
        if backend.swap(key, document, tags.dump(current.moved(now))):
            return True
    raise _contended(given)


def restore(backend: Backend, given: Reference, was: Tag, *, move: bool) -> bool:
    """Write a name as another store has it, with its history; whether that changed anything.

    A name that has a snapshot of this history moves on. Its snapshot is claimed.

    Raises:
        Conflict: the name has a snapshot that it never had there, and is not to be moved; or others
            keep moving it.
    """
    key = layout.name(given.model, given.tag)
    for _ in range(_TRIES):
        found = contents.tag_document(backend, given.model, given.tag)
        if found is None:
            if backend.create(key, tags.dump(was.merged(was))):
                return True
            continue
        document, current = found
        merged = was.merged(current)
        if merged == current:
            return False
        if not move and current.digest not in was.digests:
            raise _taken(given, current)
        if current.digest != was.digest:
            _renew(backend, current.digest)
        if backend.swap(key, document, tags.dump(merged)):
            return True
    raise _contended(given)


def _taken(given: Reference, current: Tag) -> Conflict:
    return Conflict(
        f"{given} is {of_digest(current.digest)} since {current.at}, by {current.by}; "
        "choose another tag, or --move this one"
    )


def _contended(given: Reference) -> Conflict:
    return Conflict(f"{given}: others move this name at the same moment")


def remove(backend: Backend, given: Reference) -> Tag:
    """Remove a name; its snapshot stays until `gc`, whose grace begins now. Gives what it was.

    Raises:
        NotFound: there is no such name.
        Conflict: another process moves it at the same moment.
    """
    found = contents.tag_document(backend, given.model, given.tag)
    if found is None:
        raise NotFound(f"{backend.place} has no {given}")
    document, current = found
    try:
        _renew(backend, current.digest)
        # Not atomic: a place knows no conditional removal. What is between is milliseconds.
        again = contents.tag_document(backend, given.model, given.tag)
        if again is None or again[0] != document:
            raise Conflict(f"{given} is moved or removed by another at the same moment")
        backend.remove(layout.name(given.model, given.tag))
    finally:
        backend.release()
    return current


def _renew(backend: Backend, digest: str) -> None:
    """Make a snapshot that is about to lose a name as young as if just pushed, as `gc` sees it.

    What is damaged or gone stays so.
    """
    key = layout.manifest(digest)
    with suppress(Rejected):
        backend.claim({key})
        backend.put(key, contents.manifest(backend, digest))
