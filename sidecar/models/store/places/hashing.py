"""Digests of data that is written or read at the same time.

Acts: through what it imports.
"""

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from sidecar.models.store.documents import layout
from sidecar.runtime.errors import Corrupt

CHUNK = 2**20  # bytes read at once


class Digest:
    """A SHA-256 that a thread computes while the caller reads and writes; a context manager.

    At most two chunks are in memory: one that is hashed, and the caller's. Small data needs no
    thread.
    """

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._thread: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread is not None:
            self._thread.shutdown()

    def update(self, chunk: bytes) -> None:
        """Add a chunk, once the chunk before is hashed."""
        self._wait()
        self.size += len(chunk)
        if len(chunk) < CHUNK:
            self._sha256.update(chunk)
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "store-digest")
        self._pending = self._thread.submit(self._sha256.update, chunk)

    def hexadecimal(self) -> str:
        """The digest of all chunks, as 64 hex digits."""
        self._wait()
        return self._sha256.hexdigest()

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None


def hashed(chunks: Iterable[bytes], digest: Digest) -> Iterator[bytes]:
    """The chunks, which are added to a digest on their way."""
    for chunk in chunks:
        digest.update(chunk)
        yield chunk


def check(key: str, document: bytes) -> None:
    """Check a document that is to be stored; only manifests have a digest.

    Raises:
        Corrupt: it is not what the digest in its key says.
    """
    wanted = layout.digest_at(key) if key.startswith(f"{layout.MANIFESTS}/") else None
    if wanted is not None and (found := hashlib.sha256(document).hexdigest()) != wanted:
        raise Corrupt(f"expected a manifest with digest {wanted}, found {found}")


def digest_of(chunks: Iterable[bytes]) -> tuple[int, str]:
    """The size in bytes and the SHA-256 of some data."""
    with Digest() as digest:
        for chunk in chunks:
            digest.update(chunk)
        return digest.size, digest.hexadecimal()
