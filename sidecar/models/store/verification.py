"""Reads what snapshots refer to, and tells what is missing or corrupt.

Acts: through its backend.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sidecar.models.store import contents, several
from sidecar.models.store.contents import Listed, Stored
from sidecar.models.store.documents import layout
from sidecar.models.store.documents.names import Reference, of_digest
from sidecar.models.store.places import hashing
from sidecar.models.store.places.backend import Backend
from sidecar.models.store.progress import Progress
from sidecar.runtime.errors import NotFound, Rejected

MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that cannot be used: of which snapshot, and the digests expected and found.

    `found` is `missing` if the blob is not there. Of a manifest, `path` is empty.
    """

    snapshot: str
    path: str
    expected: str
    found: str

    def __str__(self) -> str:
        what = self.path or "its manifest"
        if self.found == MISSING:
            return f"{self.snapshot}: {what}: {self.expected} is missing"
        return f"{self.snapshot}: {what}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True, slots=True)
class Verified:
    """How much was read, and what is damaged."""

    snapshots: int
    blobs: int
    size: int
    damages: tuple[Damage, ...]


def verify(backend: Backend, wanted: Sequence[Reference], progress: Progress) -> Verified:
    """Read all manifests and blobs of some snapshots, each blob once.

    Args:
        backend: the store.
        wanted: which snapshots; a model alone means all of it, nothing means all of the store.
        progress: counts the bytes that are read.

    Raises:
        NotFound: there is no such snapshot.
        Unavailable: the store does not answer.
    """
    chosen, damages = _readable(backend, _chosen(backend, wanted))
    sizes: dict[str, int] = {}
    for stored in chosen:
        sizes |= stored.snapshot.blobs
    progress.begin("verifying", sum(sizes.values()))
    read = several.each(
        lambda digest: (digest, _found(backend, digest, progress)), sizes, sizes.__getitem__
    )
    wrong = {digest: found for digest, found in read if found != digest}
    damages += [
        Damage(str(stored), file.path, of_digest(file.digest), _named(wrong[file.digest]))
        for stored in chosen
        for file in stored.snapshot.all_files
        if file.digest in wrong
    ]
    return Verified(len(chosen), len(sizes), sum(sizes.values()), tuple(damages))


def _chosen(backend: Backend, wanted: Sequence[Reference]) -> list[tuple[str, str]]:
    """What to verify: digests of manifests, and how to call them."""
    if not wanted:
        return [_called(each) for each in contents.listing(backend)]
    chosen: dict[str, str] = {}
    for each in wanted:
        if each != Reference(each.model):
            chosen[_digest(backend, each)] = str(each)
        elif found := contents.listing(backend, each.model):
            chosen |= dict(map(_called, found))
        else:
            raise NotFound(f"{backend.place} has no snapshot of {each}")
    return list(chosen.items())


def _called(listed: Listed) -> tuple[str, str]:
    return listed.digest, next(iter(listed.tags), "")


def _digest(backend: Backend, wanted: Reference) -> str:
    """Of the manifest that a reference means, which need not be readable."""
    tag = contents.tag_of(backend, wanted.model, wanted.tag) if wanted.tag else None
    return tag.digest if tag else contents.resolve(backend, wanted).digest


def _readable(
    backend: Backend, wanted: Iterable[tuple[str, str]]
) -> tuple[list[Stored], list[Damage]]:
    """The snapshots whose manifests can be used, and what is wrong with the others."""
    good, damages = [], []
    for digest, name in wanted:
        called = " ".join(filter(None, (name, of_digest(digest))))
        try:
            good.append(contents.read(backend, digest))
        except NotFound:
            damages.append(Damage(called, "", of_digest(digest), MISSING))
        except Rejected as error:
            damages.append(Damage(called, "", of_digest(digest), str(error)))
    return good, damages


def _found(backend: Backend, digest: str, progress: Progress) -> str:
    try:
        chunks = progress.through(backend.chunks(layout.blob(digest)))
        return hashing.digest_of(chunks)[1]
    except NotFound:
        return MISSING


def _named(found: str) -> str:
    return found if found == MISSING else of_digest(found)
