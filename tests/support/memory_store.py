"""A place for stores in memory, with its own clock, which can stop its writer at any write."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from sidecar.models.store.documents import layout
from sidecar.models.store.places.backend import Item, Room
from sidecar.models.store.places.hashing import check, digest_of
from sidecar.runtime.errors import Corrupt, NotFound, Rejected


class Stopped(BaseException):
    """The process ends here, as by SIGKILL: nothing that follows is done."""


class MemoryBackend:
    """The contract of `Backend`; all writers share `stored`, and stop before write `stop_at`."""

    hashes_while_writing = True

    def __init__(self, stored: dict[str, tuple[bytes, float]] | None = None) -> None:
        self.stored = {} if stored is None else stored
        self.clock = 1_000_000.0
        self.writes = 0
        self.stop_at: int | None = None
        self.between: Callable[[], None] | None = None

    @property
    def place(self) -> str:
        return "memory"

    def prepare(self) -> None:
        pass

    def read(self, key: str, largest: int) -> bytes:
        document = self._get(key)
        if len(document) > largest:
            raise Rejected(f"{key}: expected at most {largest} bytes")
        return document

    def items(self, prefix: str) -> Iterator[Item]:
        for key, (document, modified) in sorted(self.stored.items()):
            if key.startswith(f"{prefix}/"):
                yield Item(key, len(document), modified)

    def chunks(self, key: str) -> Iterator[bytes]:
        yield self._get(key)

    def path(self, key: str) -> Path | None:
        return None

    def write(self, key: str | None, size: int, chunks: Iterable[bytes]) -> str:
        content = b"".join(chunks)
        found = digest_of([content])[1]
        if len(content) != size or (key is not None and layout.digest_at(key) != found):
            raise Corrupt(f"expected {key}, found {found}")
        self._put(layout.blob(found), content)
        return found

    def put(self, key: str, document: bytes) -> None:
        check(key, document)
        self._put(key, document)

    def create(self, key: str, document: bytes) -> bool:
        if key in self.stored:
            return False
        self._put(key, document)
        return True

    def swap(self, key: str, expected: bytes, document: bytes) -> bool:
        if key not in self.stored or self.stored[key][0] != expected:
            return False
        self._put(key, document)
        return True

    def remove(self, key: str) -> None:
        self._write()
        self.stored.pop(key, None)

    def claim(self, keys: Set[str]) -> Mapping[str, int]:
        self._write()
        found = {key: self.stored[key][0] for key in keys & self.stored.keys()}
        self.stored |= {key: (content, self.clock) for key, content in found.items()}
        return {key: len(content) for key, content in found.items()}

    def release(self) -> None:
        pass

    def sweeping(self) -> AbstractContextManager[None]:
        return nullcontext()

    def sweep(self, keys: Iterable[str], before: float) -> Set[str]:
        gone = set()
        for key in keys:
            self._write()
            if key in self.stored and self.stored[key][1] <= before:
                del self.stored[key]
                gone.add(key)
        return gone

    def now(self) -> float:
        return self.clock

    def room(self) -> Room | None:
        return None

    def tidy(self) -> int:
        return 0

    def _get(self, key: str) -> bytes:
        if key not in self.stored:
            raise NotFound(f"{key} does not exist")
        return self.stored[key][0]

    def _put(self, key: str, document: bytes) -> None:
        self._write()
        self.stored[key] = (document, self.clock)

    def _write(self) -> None:
        """Count a write; what happens between two writes happens here."""
        if self.stop_at is not None and self.writes >= self.stop_at:
            raise Stopped
        self.writes += 1
        if self.between is not None:
            self.between()
