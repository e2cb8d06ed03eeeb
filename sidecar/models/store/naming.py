"""Gives names to snapshots.

Acts: through its backend.
"""

from dataclasses import dataclass

from sidecar.models.store import contents
from sidecar.models.store.contents import Stored
from sidecar.models.store.documents import layout, tags
from sidecar.models.store.documents.names import Reference, of_digest
from sidecar.models.store.documents.tags import Naming, Tag
from sidecar.models.store.places.backend import Backend
from sidecar.runtime.errors import Conflict, NotFound, Unavailable

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
        Conflict: the name has another snapshot, and is not to be moved.
        Unavailable: others keep moving it.
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
        if backend.swap(key, document, tags.dump(current.moved(now))):
            return True
    raise _contended(given)


def restore(backend: Backend, given: Reference, was: Tag, *, move: bool) -> bool:
    """Write a name as another store has it, with its history; whether that changed anything.

    A name that has a snapshot of this history moves on. Its snapshot is claimed.

    Raises:
        Conflict: the name has a snapshot that it never had there, and is not to be moved.
        Unavailable: others keep moving it.
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
        if backend.swap(key, document, tags.dump(merged)):
            return True
    raise _contended(given)


def _taken(given: Reference, current: Tag) -> Conflict:
    return Conflict(
        f"{given} is {of_digest(current.digest)} since {current.at}, by {current.by}; "
        "choose another tag, or --move this one"
    )


def _contended(given: Reference) -> Unavailable:
    return Unavailable(f"{given}: others move this name at the same moment")


def remove(backend: Backend, given: Reference) -> Tag:
    """Remove a name; its snapshot stays until `gc`. Gives what it was.

    Raises:
        NotFound: there is no such name.
    """
    current = contents.tag_of(backend, given.model, given.tag)
    if current is None:
        raise NotFound(f"{backend.place} has no {given}")
    backend.remove(layout.name(given.model, given.tag))
    return current
