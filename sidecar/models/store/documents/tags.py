"""The document of a name: which snapshot has it, and which had it before. Pure."""

from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from sidecar.models.store.documents import names
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

    def last(self, count: int) -> tuple[str, ...]:
        """The digests of the last snapshots that had the name, the current one first."""
        digests = dict.fromkeys((self.digest, *(each.digest for each in self.previous)))
        return tuple(digests)[:count]


_TAGS = TypeAdapter(Tag)


def dump(tag: Tag) -> bytes:
    """The document of a name."""
    return _TAGS.dump_json(tag)


def load(document: bytes) -> Tag:
    """The name that a document is about.

    Raises:
        Rejected: it is not such a document.
    """
    try:
        tag = _TAGS.validate_json(document)
    except ValidationError:
        raise Rejected("expected the document of a name, found something else") from None
    if not all(map(names.is_digest, (tag.digest, *(each.digest for each in tag.previous)))):
        raise Rejected("expected the document of a name, found a digest that cannot be in it")
    return tag
