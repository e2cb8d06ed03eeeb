"""What is in a store: its snapshots and names.

Acts: through its backend.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from sidecar.models.store import several
from sidecar.models.store.documents import layout, names, snapshot, tags
from sidecar.models.store.documents.names import Reference
from sidecar.models.store.documents.snapshot import Snapshot
from sidecar.models.store.documents.tags import Tag
from sidecar.models.store.places.backend import Backend, Item
from sidecar.runtime.errors import ConfigError, Corrupt, NotFound, Rejected

_SHOWN = 10  # snapshots or names in an error


@dataclass(frozen=True, slots=True)
class Stored:
    """A snapshot with its digest."""

    digest: str
    snapshot: Snapshot

    def __str__(self) -> str:
        return f"{self.snapshot.model}@{names.of_digest(self.digest)}"


def read(backend: Backend, digest: str) -> Stored:
    """A snapshot by its whole digest.

    Raises:
        NotFound: there is none.
        Corrupt: its manifest is not what its digest says.
        Rejected: a later version has written it.
    """
    found = manifest(backend, digest)
    try:
        return Stored(digest, snapshot.load(found))
    except Rejected as error:
        raise Rejected(f"{backend.place}/{layout.manifest(digest)}: {error}") from error


def manifest(backend: Backend, digest: str) -> bytes:
    """The bytes of a snapshot's manifest; raises NotFound and Corrupt as `read` does."""
    key = layout.manifest(digest)
    found = backend.read(key, snapshot.LARGEST)
    if (actual := snapshot.digest(found)) != digest:
        raise Corrupt(
            f"{backend.place}/{key}: expected a manifest with digest {names.of_digest(digest)}, "
            f"found {names.of_digest(actual)}"
        )
    return found


def manifests(backend: Backend) -> Iterator[tuple[str, Item]]:
    """The digest of each snapshot, with its manifest."""
    for item in backend.items(layout.MANIFESTS):
        if (digest := layout.digest_at(item.key)) is not None:
            yield digest, item


def named(backend: Backend, model: str = "") -> dict[tuple[str, str], Tag]:
    """The names by model and tag, of one model if it is given.

    Raises:
        Rejected: the document of one is something else.
    """
    prefix = f"{layout.NAMES}/{model}" if model else layout.NAMES
    names_of = [name for item in backend.items(prefix) if (name := layout.name_at(item.key))]
    read = several.each(lambda name: (name, tag_of(backend, *name)), names_of, lambda _: 0)
    return {name: tag for name, tag in sorted(read) if tag is not None}  # else removed since


def tag_of(backend: Backend, model: str, tag: str) -> Tag | None:
    """Which snapshot has a name; None if none has.

    Raises:
        Rejected: its document is something else.
    """
    found = tag_document(backend, model, tag)
    return None if found is None else found[1]


def tag_document(backend: Backend, model: str, tag: str) -> tuple[bytes, Tag] | None:
    """The document of a name, and what it says; errors as for `tag_of`."""
    key = layout.name(model, tag)
    try:
        document = backend.read(key, tags.LARGEST)
        return document, tags.load(document)
    except NotFound:
        return None
    except Rejected as error:
        raise Rejected(f"{backend.place}/{key}: {error}") from error


def resolve(backend: Backend, wanted: Reference) -> Stored:
    """The snapshot that a reference means.

    Raises:
        ConfigError: it means several.
        NotFound: it means none.
        Corrupt, Rejected: as for `read`; of others only if none is meant.
    """
    if wanted.tag:
        found = tag_of(backend, wanted.model, wanted.tag)
        if found is None:
            raise NotFound(f"{backend.place} has no {wanted}{_others(backend, wanted.model)}")
        return read(backend, found.digest)
    if len(wanted.digest) == 64:
        digests = [wanted.digest]
    else:
        digests = [each for each, _ in manifests(backend) if each.startswith(wanted.digest)]
    matching = _matching(backend, wanted, digests)
    if len(matching) > 1:
        raise ConfigError(_ambiguous(backend, wanted, matching))
    return matching[0]


def _matching(backend: Backend, wanted: Reference, digests: list[str]) -> list[Stored]:
    """Those of the snapshots that are of the model wanted, at least one."""
    read = several.each(lambda digest: _attempt(backend, digest), digests, lambda _: 0)
    every = [each for each in read if isinstance(each, Stored)]
    matching = [each for each in every if each.snapshot.model == wanted.model]
    if not matching:
        if damaged := [each for each in read if isinstance(each, Rejected)]:
            raise damaged[0]  # it may be the one
        raise NotFound(f"{backend.place} has no {wanted}{_others(backend, wanted.model)}")
    return matching


def _ambiguous(backend: Backend, wanted: Reference, matching: list[Stored]) -> str:
    newest = sorted(matching, key=lambda each: each.snapshot.created, reverse=True)
    lines = [f"  {each}, pushed {each.snapshot.created}" for each in newest[:_SHOWN]]
    first = (
        f"{wanted} means {len(matching)} snapshots; expected MODEL:TAG or "
        f"MODEL@sha256:DIGEST{_others(backend, wanted.model)}"
    )
    return "\n".join((first, *lines))


@dataclass(frozen=True, slots=True)
class Listed:
    """A snapshot, its names, and why it cannot be read; then `stored` is None."""

    digest: str
    stored: Stored | None
    tags: tuple[str, ...]
    fault: str = ""


def listing(backend: Backend, model: str = "") -> list[Listed]:
    """All snapshots, or those of a model; the newest first, those with a fault last."""
    tags: dict[str, list[str]] = {}
    for (of, tag), was in sorted(named(backend, model).items()):
        tags.setdefault(was.digest, []).append(f"{of}:{tag}")
    digests = {*tags, *(digest for digest, _ in manifests(backend))}
    found = several.each(
        lambda digest: _listed(backend, digest, tuple(tags.get(digest, ()))), digests, lambda _: 0
    )
    chosen = [each for each in found if not model or each.tags or _is_of(each, model)]
    return sorted(chosen, key=lambda each: _when(each), reverse=True)


def _listed(backend: Backend, digest: str, tags: tuple[str, ...]) -> Listed:
    try:
        return Listed(digest, read(backend, digest), tags)
    except Rejected as error:
        return Listed(digest, None, tags, str(error))


def _is_of(listed: Listed, model: str) -> bool:
    return listed.stored is not None and listed.stored.snapshot.model == model


def _when(listed: Listed) -> tuple[str, str]:
    return (listed.stored.snapshot.created if listed.stored else "", listed.digest)


def _attempt(backend: Backend, digest: str) -> Stored | Rejected | None:
    """A snapshot, or what is wrong with it; None if it has been removed since."""
    try:
        return read(backend, digest)
    except NotFound:
        return None
    except Rejected as error:
        return error


def _others(backend: Backend, model: str) -> str:
    """Which names a model has, for an error."""
    try:
        found = sorted(tag for _, tag in named(backend, model))
    except ConfigError:
        return ""
    last = ", ".join(found[-_SHOWN:])
    return f"; {model} has {last}" if found else f"; no snapshot of {model} is named"
