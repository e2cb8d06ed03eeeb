"""Which snapshots and blobs may be removed, and which have to be. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sidecar.models.store.documents.tags import Tag

GRACE = 86400.0  # seconds
KEPT = 2  # snapshots of each name: the current one and the one before


@dataclass(frozen=True, slots=True)
class RetentionRules:
    """What is kept.

    `last`: how many snapshots of each name, the current one included, at least 1. `keep`: digests
    of further snapshots. `grace`: what is younger than these seconds. `wanted`: the bytes to be
    freed, None for all that may be.
    """

    last: int = KEPT
    keep: frozenset[str] = frozenset()
    grace: float = GRACE
    wanted: int | None = None


@dataclass(frozen=True, slots=True)
class HeldSnapshot:
    """A snapshot in a store; `modified` is in Unix seconds by the store's clock."""

    digest: str
    model: str
    modified: float
    blobs: frozenset[str]


@dataclass(frozen=True, slots=True)
class HeldBlob:
    """A blob in a store: its bytes, and when it was last written."""

    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class Removal:
    """What to remove: digests of snapshots, digests of blobs, and the bytes of those blobs."""

    snapshots: tuple[str, ...] = ()
    blobs: tuple[str, ...] = ()
    size: int = 0


@dataclass(slots=True)
class _Removing:
    """The blobs that nothing refers to any more, while snapshots are removed one by one."""

    blobs: Mapping[str, HeldBlob]
    before: float
    users: Counter[str]
    removed: dict[str, int] = field(default_factory=dict)

    def remove(self, snapshot: HeldSnapshot) -> None:
        self.users.subtract(snapshot.blobs)
        self.collect(snapshot.blobs)

    def collect(self, digests: Iterable[str]) -> None:
        for digest in sorted(digests):
            held = self.blobs.get(digest)
            if held and held.modified <= self.before and self.users[digest] <= 0:
                self.removed[digest] = held.size

    @property
    def size(self) -> int:
        return sum(self.removed.values())


def removal(
    snapshots: Sequence[HeldSnapshot],
    blobs: Mapping[str, HeldBlob],
    tags: Iterable[Tag],
    rules: RetentionRules,
    now: float,
) -> Removal:
    """What may be removed, and is needed to free the wanted bytes; the oldest snapshots first.

    Args:
        snapshots: all of the store.
        blobs: all of the store, by digest.
        tags: all names of the store.
        rules: what is kept.
        now: Unix seconds by the store's clock.
    """
    if rules.wanted is not None and rules.wanted <= 0:
        return Removal()
    before = now - rules.grace
    kept = rules.keep | {digest for tag in tags for digest in tag.last(rules.last)}
    old = [each for each in snapshots if each.digest not in kept and each.modified <= before]
    users = Counter(digest for each in snapshots for digest in each.blobs)
    removing = _Removing(blobs, before, users)
    removing.collect(blobs)  # what was pushed and never named
    gone = []
    for each in sorted(old, key=lambda each: (each.modified, each.digest)):
        if rules.wanted is not None and removing.size >= rules.wanted:
            break
        gone.append(each.digest)
        removing.remove(each)
    return Removal(tuple(gone), tuple(removing.removed), removing.size)


def unused(blobs: Iterable[str], remaining: Iterable[HeldSnapshot]) -> tuple[str, ...]:
    """Those of the blobs that no remaining snapshot has."""
    used = {digest for each in remaining for digest in each.blobs}
    return tuple(digest for digest in blobs if digest not in used)
