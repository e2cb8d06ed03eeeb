"""The progress of a long operation, in bytes. Pure."""

from collections.abc import Iterable, Iterator


class Progress:
    """Counts bytes; subclasses show them."""

    def begin(self, what: str, total: int) -> None:
        """A phase begins, such as `reading`, over so many bytes."""

    def add(self, size: int) -> None:
        """So many bytes more are done."""

    def through(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The chunks, counted on their way."""
        for chunk in chunks:
            yield chunk
            self.add(len(chunk))
