"""A store in a bucket of S3, or of what speaks its protocol: OSS, MinIO, SeaweedFS, Ceph.

An object cannot get a new age, nor be removed only if it is old. So a writer writes down what it
relies on before it looks what is there, and a removal is announced before it reads what writers
rely on: one of the two sees the other. That rests on reads that see every write before them, which
S3 promises.

Acts: obstore, threading, time.
"""

import json
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import obstore

from sidecar.models.store.documents import layout
from sidecar.models.store.places import bucket_access
from sidecar.models.store.places.backend import Item, Room
from sidecar.models.store.places.bucket_access import translated
from sidecar.models.store.places.hashing import Digest, check, hashed
from sidecar.runtime.errors import Conflict, Corrupt, NotFound, Rejected, SidecarError, Unavailable

if TYPE_CHECKING:
    from obstore.store import S3Store

_PART = 5 * 2**20  # bytes of a part of an upload; S3 takes no smaller ones
_RANGE = 2**20  # bytes of a request of a download
_PARTS = 9000  # in an upload; S3 allows 10,000
_UPLOADS, _DOWNLOADS = 2, 4  # requests at once
_CLAIMS = f"{layout.PARTIAL}/claims"
_CLOCK = f"{layout.PARTIAL}/clock"
_SWEEP = f"{layout.PARTIAL}/sweep"
_LARGEST_ANNOUNCEMENT = 100  # bytes
_LARGEST_CLAIM = 256 * 2**20  # bytes
_RENEW = 600.0  # seconds between two writes of a claim
_CLAIM_LASTS = 86400.0  # seconds; the claim of a dead writer
_SWEEP_LASTS = 180.0  # seconds; the announcement of a dead sweep, for which writers wait
_RENEW_SWEEP = 20.0  # seconds until it is announced again
_BATCH = 500  # objects removed by one request
_POLL = 0.5  # seconds


class BucketBackend:
    """A bucket, or a prefix in one; `Backend` describes the methods.

    Args:
        store: the client.
        removing: the client of a sweep, whose requests end well before its announcement does.
        url: where it is, for people.
    """

    hashes_while_writing = False

    def __init__(self, store: "S3Store", removing: "S3Store", url: str) -> None:
        self._store = store
        self._removing = removing
        self._url = url
        self._claim = f"{_CLAIMS}/{uuid.uuid4().hex}"
        self._claimed: set[str] = set()
        self._renewed = 0.0
        self._protected: set[str] = set()
        self._announcement = b""
        self._announced = 0.0

    @property
    def place(self) -> str:
        """The URL."""
        return self._url

    def prepare(self) -> None:
        """Nothing: a bucket needs no folders."""

    def read(self, key: str, largest: int) -> bytes:
        """A document."""
        with translated(self._at(key)):
            found = obstore.get(self._store, key)
            if found.meta["size"] > largest:
                raise Rejected(f"{self._at(key)}: expected at most {largest} bytes")
            return bytes(found.bytes())

    def items(self, prefix: str) -> Iterator[Item]:
        """Everything below a prefix."""
        with translated(self._at(prefix)):
            for page in obstore.list(self._store, prefix=prefix):
                for found in page:
                    yield Item(found["path"], found["size"], found["last_modified"].timestamp())

    def chunks(self, key: str) -> Iterator[bytes]:
        """The bytes of a blob, of which some parts are requested in advance."""
        with translated(self._at(key)):
            size = obstore.head(self._store, key)["size"]
        if size <= _RANGE:
            yield self._part(key, 0, size) if size else b""
            return
        starts = iter(range(0, size, _RANGE))
        with ThreadPoolExecutor(_DOWNLOADS, "store-parts") as pool:
            parts = [
                pool.submit(self._part, key, start, size) for start in islice(starts, _DOWNLOADS)
            ]
            while parts:
                part = parts.pop(0).result()
                if (start := next(starts, None)) is not None:
                    parts.append(pool.submit(self._part, key, start, size))
                yield part

    def _part(self, key: str, start: int, size: int) -> bytes:
        length = min(_RANGE, size - start)
        with translated(self._at(key)):
            part = bytes(obstore.get_range(self._store, key, start=start, length=length))
        if len(part) != length:
            raise Unavailable(f"{self._at(key)}: expected {length} bytes, found {len(part)}")
        return part

    def path(self, key: str) -> Path | None:
        """None: nothing can be linked to it."""

    def write(self, key: str | None, size: int, chunks: Iterable[bytes]) -> str:
        """Store a blob, whose digest has to be known."""
        wanted = layout.digest_at(key or "")
        if key is None or wanted is None:
            raise ValueError("a bucket needs the digest in advance")
        with translated(self._at(key)):
            verified = self._verified(chunks, size, wanted)
            if size <= _PART:
                obstore.put(self._store, key, b"".join(verified), use_multipart=False)
            else:
                obstore.put(
                    self._store,
                    key,
                    verified,
                    use_multipart=True,
                    chunk_size=max(_PART, size // _PARTS + 1),
                    max_concurrency=_UPLOADS,
                )
        return wanted

    def _verified(self, chunks: Iterable[bytes], size: int, wanted: str) -> Iterator[bytes]:
        """The chunks; raises at their end if they are wrong, so that the upload is not completed.

        Raises:
            Corrupt: they have another size or digest.
        """
        with Digest() as digest:
            for chunk in hashed(chunks, digest):
                self._renew()
                yield chunk
            if digest.size != size:
                raise Corrupt(f"expected {size} bytes, found {digest.size}")
            if (found := digest.hexadecimal()) != wanted:
                raise Corrupt(f"expected content with digest {wanted}, found {found}")

    def put(self, key: str, document: bytes) -> None:
        """Store a document."""
        check(key, document)
        with translated(self._at(key)):
            obstore.put(self._store, key, document, use_multipart=False)

    def create(self, key: str, document: bytes) -> bool:
        """Store a document unless there is one."""
        with translated(self._at(key)):
            try:
                obstore.put(self._store, key, document, mode="create")
            except obstore.exceptions.AlreadyExistsError:
                return False
        return True

    def swap(self, key: str, expected: bytes, document: bytes) -> bool:
        """Replace a document if it is as expected."""
        with translated(self._at(key)):
            try:
                found = obstore.get(self._store, key)
                if bytes(found.bytes()) != expected:
                    return False
                # With the tag alone: the client takes no version that is None.
                obstore.put(self._store, key, document, mode={"e_tag": found.meta["e_tag"]})
            except (FileNotFoundError, obstore.exceptions.PreconditionError):
                return False
        return True

    def remove(self, key: str) -> None:
        """Remove a document."""
        with translated(self._at(key)):
            try:
                obstore.delete(self._store, key)
            except FileNotFoundError:
                return

    def claim(self, keys: Set[str]) -> Mapping[str, int]:
        """Write down what this process relies on, and then look what is there."""
        self._claimed |= keys
        self._renew(0.0)
        while (sweeping := self._sweeping()) is not None and sweeping < _SWEEP_LASTS:
            time.sleep(_POLL)
        stored = {
            item.key: item.size
            for prefix in {key.partition("/")[0] for key in keys}
            for item in self.items(prefix)
        }
        return {key: stored[key] for key in keys & stored.keys()}

    def release(self) -> None:
        """Remove the claim."""
        if self._claimed:
            self.remove(self._claim)
            self._claimed = set()

    @contextmanager
    def sweeping(self) -> Iterator[None]:
        """Announce a sweep, and read what writers rely on; a writer that comes later waits.

        One that has released its claim before has named what it stored.
        """
        self._announce()
        ended = threading.Event()
        announcing = threading.Thread(target=self._keep_announcing, args=(ended,), daemon=True)
        announcing.start()
        try:
            self._protected = self._claims()
            yield
        finally:
            ended.set()
            announcing.join()
            self._protected = set()
            self._end_announcement()

    def sweep(self, keys: Iterable[str], before: float) -> Set[str]:
        """Remove blobs and manifests that no writer relies on."""
        left, gone = [key for key in sorted(keys) if key not in self._protected], set[str]()
        for start in range(0, len(left), _BATCH):
            # It was suspended, or cut off, or another one has taken over.
            if not (self._announcement and self._is_at_work()):
                raise Unavailable(f"{self._url}: the removal was interrupted; run it again")
            gone |= self._removed(left[start : start + _BATCH])
        return gone

    def _removed(self, keys: list[str]) -> set[str]:
        if keys:
            with translated(self._url):
                obstore.delete(self._removing, keys)
        return set(keys)

    def now(self) -> float:
        """The time that an object gets which is written now."""
        self.put(_CLOCK, b"")
        with translated(self._url):
            return obstore.head(self._store, _CLOCK)["last_modified"].timestamp()

    def room(self) -> Room | None:
        """None: a bucket has no end."""

    def tidy(self) -> int:
        """Remove the claims of dead writers; unfinished uploads are for a rule of the bucket."""
        before = self.now() - _CLAIM_LASTS
        dead = [item.key for item in self.items(_CLAIMS) if item.modified <= before]
        return len(self._removed(dead))

    def _renew(self, after: float = _RENEW) -> None:
        """Write the claim, if the last time was so many seconds ago."""
        if self._claimed and time.monotonic() - self._renewed >= after:
            self.put(self._claim, json.dumps(sorted(self._claimed)).encode())
            self._renewed = time.monotonic()

    def _claims(self) -> set[str]:
        """What writers rely on that are alive, or have died lately."""
        before = self.now() - _CLAIM_LASTS
        claimed = set()
        for item in list(self.items(_CLAIMS)):
            if item.modified > before:
                try:
                    claimed |= set(json.loads(self.read(item.key, _LARGEST_CLAIM)))
                except NotFound:  # released since; what it stored is as young as it is
                    continue
        return claimed

    def _announce(self) -> None:
        """Announce a sweep, also after one that has died.

        Raises:
            Conflict: another one is at work.
        """
        made = _announcement(uuid.uuid4().hex, 0)
        began = time.monotonic()
        if not self.create(_SWEEP, made) and not self._take_over(made):
            raise Conflict(
                f"{self._url}: another process removes snapshots; if it has died, this works "
                f"{_SWEEP_LASTS / 60:.0f} min later"
            )
        self._announcement, self._announced = made, began

    def _take_over(self, made: bytes) -> bool:
        """Replace the announcement of a sweep that has died; whether it was, and is ours now."""
        try:
            found = self.read(_SWEEP, _LARGEST_ANNOUNCEMENT)
        except NotFound:  # it has ended just now
            return self.create(_SWEEP, made)
        age = self._sweeping()  # after the document: one that is renewed meanwhile differs
        return age is not None and age >= _SWEEP_LASTS and self.swap(_SWEEP, found, made)

    def _keep_announcing(self, ended: threading.Event) -> None:
        number = 0
        while not ended.wait(_RENEW_SWEEP):
            number += 1
            with suppress(SidecarError):  # the sweep stops if this fails for long
                self._renew_sweep(number)

    def _renew_sweep(self, number: int) -> None:
        """Announce the sweep again, unless another one has taken over."""
        began = time.monotonic()
        if not (current := self._announcement):
            return
        renewed = _announcement(current.decode().partition(" ")[0], number)
        # A renewal whose answer was lost is found as it was to be.
        if self.swap(_SWEEP, current, renewed) or self._is_announced(renewed):
            self._announcement, self._announced = renewed, began
        elif not self._is_announced(current):
            self._announcement = b""

    def _is_announced(self, document: bytes) -> bool:
        try:
            return self.read(_SWEEP, _LARGEST_ANNOUNCEMENT) == document
        except NotFound:
            return False

    def _end_announcement(self) -> None:
        """Remove the announcement if it is ours, and not about to be another's."""
        current, self._announcement = self._announcement, b""
        if current and self._is_at_work() and self._is_announced(current):
            with translated(self._at(_SWEEP)), suppress(FileNotFoundError):
                obstore.delete(self._removing, _SWEEP)

    def _is_at_work(self) -> bool:
        """Whether the announcement lasts long enough for one more request."""
        return time.monotonic() - self._announced <= _SWEEP_LASTS / 2

    def _sweeping(self) -> float | None:
        """The age of the announcement of a sweep in seconds; None if there is none."""
        try:
            with translated(self._url):
                made = obstore.head(self._store, _SWEEP)["last_modified"].timestamp()
        except NotFound:
            return None
        return self.now() - made

    def _at(self, key: str) -> str:
        return f"{self._url}/{key}"


def _announcement(sweep: str, number: int) -> bytes:
    """The document that announces a sweep, for the time of this number."""
    return f"{sweep} {number}".encode()


def connect(url: str) -> BucketBackend:
    """The store at an address such as `s3://bucket/prefix`.

    Raises:
        ConfigError: it is no such address.
    """
    return BucketBackend(
        bucket_access.client(url), bucket_access.hasty_client(url), url.rstrip("/")
    )
