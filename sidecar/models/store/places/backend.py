"""What a place for stores has to offer: a folder, or a bucket of S3. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Item:
    """Something in a store: its key, its bytes, and when it was last written.

    `modified` is in Unix seconds by the store's clock.
    """

    key: str
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class Room:
    """The bytes of a disk: those that are free to this user, and all."""

    free: int
    total: int


class Backend(Protocol):
    """A place for a store. Every call blocks.

    Every call may raise `Unavailable` if the place does not answer, `NoRoom` if it is full, and
    `ConfigError` if the operator has to change an address, a right or a credential.
    """

    @property
    def place(self) -> str:
        """The folder or URL, for people."""

    @property
    def hashes_while_writing(self) -> bool:
        """Whether `write` needs no digest in advance."""

    def prepare(self) -> None:
        """Make the store, if there is none.

        Raises:
            ConfigError: there is something else.
        """

    def read(self, key: str, largest: int) -> bytes:
        """A document of at most `largest` bytes.

        Raises:
            NotFound: there is none with this key.
            Rejected: it is larger.
        """

    def items(self, prefix: str) -> Iterator[Item]:
        """Everything whose key begins with a folder's name."""

    def chunks(self, key: str) -> Iterator[bytes]:
        """The bytes of a blob, unverified; raises NotFound as `read` does."""

    def path(self, key: str) -> Path | None:
        """The file of a blob, if this machine can link to it."""

    def write(self, key: str | None, size: int, chunks: Iterable[bytes]) -> str:
        """Store a blob; gives its digest. It has its key only once all bytes are safe.

        Args:
            key: of the blob; None if its digest is not known.
            size: in bytes.
            chunks: what is to be stored; what raises here is raised, and nothing is stored.

        Raises:
            Corrupt: these bytes have another size or digest.
        """

    def put(self, key: str, document: bytes) -> None:
        """Store a document, atomically and durably; replaces another one.

        Raises:
            Corrupt: it is a manifest, and its digest is another one than its key says.
        """

    def create(self, key: str, document: bytes) -> bool:
        """Store a document unless there is one with this key; whether it was stored."""

    def swap(self, key: str, expected: bytes, document: bytes) -> bool:
        """Replace a document by another one if it is as expected; whether it was replaced."""

    def remove(self, key: str) -> None:
        """Remove a document, if it is there."""

    def claim(self, keys: Set[str]) -> Mapping[str, int]:
        """The sizes of those of the blobs and manifests that are there.

        From now on, until `release`, `sweep` does not remove them. They are left as they are, with
        their times.
        """

    def release(self) -> None:
        """End the claims of this process, once its work has a name, or has failed."""

    def sweeping(self) -> AbstractContextManager[None]:
        """What is listed and swept in this context cannot be claimed unseen in between.

        Raises:
            Conflict: another process sweeps at the same moment.
        """

    def sweep(self, keys: Iterable[str], before: float) -> Set[str]:
        """Remove blobs and manifests, except what is claimed, or was written since `before`.

        Gives the keys that are gone. `before` is in Unix seconds by the store's clock. Call it in
        the context of `sweeping`.
        """

    def now(self) -> float:
        """Unix seconds by the store's clock, which the times of items are from."""

    def room(self) -> Room | None:
        """The room on the disk, if the place is on one."""

    def tidy(self) -> int:
        """Remove the temporary files of dead writers; gives how many."""
