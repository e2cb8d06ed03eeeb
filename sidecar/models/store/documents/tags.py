"""The document of a name: which snapshot has it, and which had it before. Pure."""

import json
from dataclasses import asdict, dataclass

from sidecar.models.store.documents import fields, names
from sidecar.runtime.errors import Rejected

LARGEST = 2**20  # bytes
_KEPT = 50  # entries of the history


@dataclass(frozen=True, slots=True)
class Naming:
    """A snapshot got the name: which, when (RFC 3339), and by whom."""

    digest: str
    at: str
    by: str


@dataclass(frozen=True, slots=True)
class Tag:
    """The snapshot that has the name now, and those that had it before, newest first."""

    digest: str
    at: str
    by: str
    previous: tuple[Naming, ...] = ()

    def moved(self, to: Naming) -> "Tag":
        """The name after it has moved to another snapshot."""
        before = (Naming(self.digest, self.at, self.by), *self.previous)
        return Tag(to.digest, to.at, to.by, before[:_KEPT])

    def merged(self, other: "Tag") -> "Tag":
        """The name as it is here, with the history of both."""
        now = Naming(self.digest, self.at, self.by)
        before = {*self.previous, Naming(other.digest, other.at, other.by), *other.previous} - {now}
        newest = sorted(before, key=lambda each: (each.at, each.digest, each.by), reverse=True)
        return Tag(self.digest, self.at, self.by, tuple(newest[:_KEPT]))

    @property
    def digests(self) -> tuple[str, ...]:
        """The digests of all snapshots that had the name, the current one first."""
        return self.last(_KEPT + 1)

    def last(self, count: int) -> tuple[str, ...]:
        """The digests of the last snapshots that had the name, the current one first."""
        digests = dict.fromkeys((self.digest, *(each.digest for each in self.previous)))
        return tuple(digests)[:count]


def dump(tag: Tag) -> bytes:
    """The document of a name."""
    return json.dumps(asdict(tag), separators=(",", ":")).encode()


def load(document: bytes) -> Tag:
    """The name that a document is about; fields that this version does not know are ignored.

    Raises:
        Rejected: it is not such a document.
    """
    tree = fields.tree(document)
    previous = tuple(map(_naming, fields.several(tree, "previous", [])))
    now = _naming(tree)
    return Tag(now.digest, now.at, now.by, previous)


def _naming(value: object) -> Naming:
    tree = fields.mapping(value)
    digest = fields.text(tree, "digest")
    if not names.is_digest(digest):
        raise Rejected(f"expected a digest, found {digest!r:.80}")
    return Naming(digest, fields.text(tree, "at"), fields.text(tree, "by"))
