"""Removes what no name needs any more.

Acts: through its backend.
"""

from dataclasses import dataclass, replace

from sidecar.models.store import contents, retention, several
from sidecar.models.store.contents import Stored
from sidecar.models.store.documents import layout
from sidecar.models.store.places.backend import Backend
from sidecar.models.store.retention import HeldBlob, HeldSnapshot, Removal, RetentionRules
from sidecar.runtime.errors import ConfigError, NotFound, Rejected


@dataclass(frozen=True, slots=True)
class Watermarks:
    """When to stop: so much of the disk is free (from 0 to 1), or the blobs are so many bytes."""

    free: float | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Collected:
    """What was removed, or would be, and the bytes of all blobs before."""

    snapshots: tuple[Stored, ...]
    blobs: int
    size: int
    before: int


@dataclass(frozen=True, slots=True)
class _Inventory:
    """What is in a store; blobs are listed first, so that a later one is not in it."""

    blobs: dict[str, HeldBlob]
    snapshots: list[HeldSnapshot]
    stored: dict[str, Stored]
    now: float

    @property
    def size(self) -> int:
        return sum(blob.size for blob in self.blobs.values())


def collect(
    backend: Backend, rules: RetentionRules, marks: Watermarks, *, dry_run: bool = False
) -> Collected:
    """Remove snapshots and blobs that may be removed, as many as are needed.

    Raises:
        Rejected: a manifest or a name cannot be read, so that what it needs is unknown.
        Conflict: another process collects at the same moment.
        ConfigError: the store has no disk whose free part could be a mark.
    """
    if dry_run:
        found, plan = _planned(backend, rules, marks)
        return _collected(found, plan, plan.snapshots, plan.blobs)
    backend.tidy()
    with backend.sweeping():
        found, plan = _planned(backend, rules, marks)
        before = found.now - rules.grace
        swept = backend.sweep(map(layout.manifest, plan.snapshots), before)
        gone = {digest for digest in plan.snapshots if layout.manifest(digest) in swept}
        remaining = [each for each in found.snapshots if each.digest not in gone]
        blobs = retention.unused(plan.blobs, remaining)
        removed = backend.sweep(map(layout.blob, blobs), before)
    done = tuple(digest for digest in plan.blobs if layout.blob(digest) in removed)
    return _collected(found, plan, tuple(gone), done)


def _planned(
    backend: Backend, rules: RetentionRules, marks: Watermarks
) -> tuple[_Inventory, Removal]:
    found = _inventory(backend)
    rules = replace(rules, wanted=_wanted(backend, found, marks))
    tags = list(contents.named(backend).values())
    return found, retention.removal(found.snapshots, found.blobs, tags, rules, found.now)


def _collected(
    found: _Inventory, plan: Removal, snapshots: tuple[str, ...], blobs: tuple[str, ...]
) -> Collected:
    gone = tuple(found.stored[digest] for digest in plan.snapshots if digest in set(snapshots))
    size = sum(found.blobs[digest].size for digest in blobs)
    return Collected(gone, len(blobs), size, found.size)


def _inventory(backend: Backend) -> _Inventory:
    now = backend.now()
    blobs = {
        digest: HeldBlob(item.size, item.modified)
        for item in backend.items(layout.BLOBS)
        if (digest := layout.digest_at(item.key)) is not None
    }
    manifests = dict(contents.manifests(backend))
    read = several.each(lambda digest: _read(backend, digest), manifests, lambda _: 0)
    stored = {each.digest: each for each in read if each is not None}
    held = [
        HeldSnapshot(
            digest,
            each.snapshot.model,
            manifests[digest].modified,
            frozenset(each.snapshot.blobs),
        )
        for digest, each in stored.items()
    ]
    return _Inventory(blobs, held, stored, now)


def _read(backend: Backend, digest: str) -> Stored | None:
    """A snapshot; None if it has been removed since it was listed."""
    try:
        return contents.read(backend, digest)
    except NotFound:
        return None
    except Rejected as error:
        error.add_note("nothing is removed, because what it needs is unknown")
        raise


def _wanted(backend: Backend, found: _Inventory, marks: Watermarks) -> int | None:
    """The bytes to be freed; None for all that may be."""
    wanted = []
    if marks.free is not None:
        room = backend.room()
        if room is None:
            raise ConfigError(f"{backend.place} is on no disk; expected a mark by size")
        wanted.append(int(room.total * marks.free) - room.free)
    if marks.size is not None:
        wanted.append(found.size - marks.size)
    return max(wanted) if wanted else None
