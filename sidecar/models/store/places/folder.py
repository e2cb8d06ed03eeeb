"""A store in a folder, also on a network file system.

Acts: os, time.
"""

import errno
import os
import stat
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from pathlib import Path

from sidecar.models.store.documents import layout, marker
from sidecar.models.store.places import claims, disk
from sidecar.models.store.places.backend import Item, Room
from sidecar.models.store.places.claims import Claims
from sidecar.models.store.places.faults import translated
from sidecar.models.store.places.hashing import Digest, check, hashed
from sidecar.runtime.errors import ConfigError, Corrupt, NotFound, Rejected

_PATIENCE = 30.0  # seconds for the lock of names, which is held for milliseconds
_SWEPT = ".swept"
_ABANDONED = 900.0  # seconds after which a process that moved a blob aside has died
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_RENEW = 600.0  # seconds between two renewals of a claim
_READ_ONLY = 0o444
_CLAIMS = f"{layout.PARTIAL}/claims"


class FolderBackend:
    """A folder; `Backend` describes the methods.

    Args:
        folder: it is made when something is first stored.
    """

    hashes_while_writing = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._known = False
        self._claimed: list[str] = []
        self._renewed = 0.0
        self._respected: Claims | None = None

    @property
    def place(self) -> str:
        """The folder."""
        return str(self._folder)

    def prepare(self) -> None:
        """Make the folder and its marker, or see that it is a store's."""
        if self._is_store():
            return
        with translated(self._folder):
            try:
                found = {path.name for path in self._folder.iterdir()} - {layout.PARTIAL}
            except FileNotFoundError:
                self._folder.mkdir(exist_ok=True)  # not those above: a network mount may be missing
                disk.sync_folder(self._folder.parent)
                found = set()
            if found and not self._is_store():  # another push may have made it now
                raise ConfigError(
                    f"{self._folder}: expected a store or an empty folder, found {min(found)!r} "
                    f"and no {marker.KEY}"
                )
            with self._temporary(marker.dump()) as path:
                self._rename(path, marker.KEY)
        self._known = True

    def _is_store(self) -> bool:
        """Whether it has a marker; raises ConfigError if that is a later version's."""
        if not self._known:
            path = self._folder / marker.KEY
            with translated(path):
                try:
                    with path.open("rb") as file:
                        marker.check(self.place, file.read(marker.LARGEST))
                except (FileNotFoundError, NotADirectoryError):
                    return False
            self._known = True
        return True

    def _require(self) -> None:
        """Raise ConfigError unless this is a store, so that no missing mount counts as one."""
        if not self._is_store():
            raise marker.missing(self.place)

    def read(self, key: str, largest: int) -> bytes:
        """A document."""
        self._require()
        path = self._folder / key
        with translated(path):
            try:
                with path.open("rb") as file:
                    document = file.read(largest + 1)
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                raise NotFound(f"{path} does not exist") from None
        if len(document) > largest:
            raise Rejected(f"{path}: expected at most {largest} bytes")
        return document

    def items(self, prefix: str) -> Iterator[Item]:
        """Everything below a folder."""
        self._require()
        yield from self._walk(prefix)

    def _walk(self, prefix: str) -> Iterator[Item]:
        folder = self._folder / prefix
        with translated(folder):
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except FileNotFoundError:
                return
        for entry in entries:
            key = f"{prefix}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(key)
                continue
            with translated(folder), suppress(FileNotFoundError):  # removed since
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(found.st_mode):
                    yield Item(key, found.st_size, found.st_mtime)

    def chunks(self, key: str) -> Iterator[bytes]:
        """The bytes of a blob."""
        self._require()
        path = self._folder / key
        with translated(path):
            try:
                yield from disk.read(path)
            except FileNotFoundError:
                raise NotFound(f"{path} does not exist") from None

    def path(self, key: str) -> Path | None:
        """The file of a blob."""
        return self._folder / key

    def write(self, key: str | None, size: int, chunks: Iterable[bytes]) -> str:
        """Store a blob."""
        self._renew()
        partial = self._partial()
        with (
            translated(partial),
            disk.temporary(partial) as (number, path),
            Digest() as digest,
        ):
            written = disk.write(number, hashed(chunks, digest))
            if written != size:
                raise Corrupt(f"expected {size} bytes, found {written}")
            found = digest.hexadecimal()
            wanted = layout.digest_at(key) if key else found
            if found != wanted:
                raise Corrupt(f"expected content with digest {wanted}, found {found}")
            os.fchmod(number, _READ_ONLY)
            os.fsync(number)
            self._rename(path, layout.blob(found))
            return found

    def put(self, key: str, document: bytes) -> None:
        """Store a document."""
        check(key, document)
        with translated(self._folder / key), self._written(document) as path:
            self._rename(path, key)

    def create(self, key: str, document: bytes) -> bool:
        """Store a document unless there is one."""
        target = self._folder / key
        with translated(target), self._written(document) as path:
            disk.make_folder(target.parent)
            try:
                target.hardlink_to(path)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                return self._create_without_links(path, key)
            disk.sync_folder(target.parent)
        return True

    def _create_without_links(self, path: Path, key: str) -> bool:
        with disk.locked(self._lock(), _PATIENCE):
            if (self._folder / key).exists():
                return False
            self._rename(path, key)
            return True

    def swap(self, key: str, expected: bytes, document: bytes) -> bool:
        """Replace a document if it is as expected."""
        with translated(self._folder / key), disk.locked(self._lock(), _PATIENCE):
            try:
                if self.read(key, len(expected)) != expected:
                    return False
            except Rejected:
                return False
            self.put(key, document)
            return True

    def remove(self, key: str) -> None:
        """Remove a document."""
        self._require()
        path = self._folder / key
        with translated(path), suppress(FileNotFoundError):
            path.unlink()
            disk.sync_folder(path.parent)

    def claim(self, keys: Set[str]) -> Mapping[str, int]:
        """Write down what this process relies on, and then look what is there."""
        claim = uuid.uuid4().hex
        self.put(f"{_CLAIMS}/{claims.file_name(claim)}", claims.dump(keys))
        self._claimed.append(claim)
        self._renewed = time.monotonic()
        found = {}
        for key in keys:
            path = self._folder / key
            with translated(path), suppress(FileNotFoundError, PermissionError):
                found[key] = disk.size(path)
        return found

    def release(self) -> None:
        """Mark the claims as released; best effort, as they end after a day in any case."""
        while self._claimed:
            with suppress(OSError):
                claims.done(self._folder / _CLAIMS, self._claimed.pop())

    @contextmanager
    def sweeping(self) -> Iterator[None]:
        """Note which claims were released before; writers don't wait."""
        self._require()
        with translated(self._folder):
            self._respected = Claims(self._folder / _CLAIMS)
        try:
            yield
        finally:
            self._respected = None

    def sweep(self, keys: Iterable[str], before: float) -> Set[str]:
        """Remove blobs and manifests.

        Each is moved aside, and then claims are read: so a claim either comes before, and is seen,
        or finds nothing.
        """
        respected = self._respected
        if respected is None:
            raise ValueError("sweep was called outside of the context of sweeping")
        gone = set()
        partial = self._partial()
        for key in keys:
            path = self._folder / key
            aside = partial / f"{key.replace('/', '+')}+{uuid.uuid4().hex}{_SWEPT}"
            with translated(path), suppress(FileNotFoundError):
                if path.stat().st_mtime > before or key in respected.keys:
                    continue  # so that the file stays untouched
                path.rename(aside)
                if _is_needed(aside, before, key, respected):
                    aside.rename(path)
                else:
                    aside.unlink()
                    gone.add(key)
        return gone

    def now(self) -> float:
        """The time that a file gets which is written now."""
        self._require()
        if not os.access(self._folder, os.W_OK):
            return time.time()
        with translated(self._folder), disk.temporary(self._partial()) as (number, _):
            return os.fstat(number).st_mtime

    def room(self) -> Room | None:
        """The room on the disk of the folder, or of the nearest one above that exists."""
        return room_at(self._folder)

    def tidy(self) -> int:
        """Remove temporary files of dead writers, and put back what a dead sweep moved aside."""
        now = self.now()
        removed = 0
        with translated(self._folder), suppress(FileNotFoundError):
            for path in sorted((self._folder / layout.PARTIAL).iterdir()):
                if path.name.endswith(_SWEPT):
                    self._put_back(path, now)
                else:
                    removed += disk.remove_if_abandoned(path, now)
            removed += claims.tidy(self._folder / _CLAIMS, now)
        return removed

    def _put_back(self, path: Path, now: float) -> None:
        key, _, _ = path.name.replace("+", "/").rpartition("/")
        if layout.digest_at(key) is None:
            return
        with suppress(FileNotFoundError):
            if now - path.stat().st_ctime > _ABANDONED:
                path.rename(self._folder / key)

    def _renew(self) -> None:
        """Keep the claims of a long push from ending."""
        if self._claimed and time.monotonic() - self._renewed > _RENEW:
            with translated(self._folder):
                for claim in self._claimed:
                    os.utime(self._folder / _CLAIMS / claims.file_name(claim))
            self._renewed = time.monotonic()

    def _partial(self) -> Path:
        self._require()
        folder = self._folder / layout.PARTIAL
        with translated(folder):
            disk.make_folder(folder)
        return folder

    def _lock(self) -> Path:
        folder = self._folder / layout.NAMES
        disk.make_folder(folder)
        return folder / ".lock"

    def _rename(self, path: Path, key: str) -> None:
        target = self._folder / key
        disk.make_folder(target.parent)
        path.rename(target)
        disk.sync_folder(target.parent)

    @contextmanager
    def _written(self, document: bytes) -> Iterator[Path]:
        """A temporary file with a document, durable; raises ConfigError if this is no store."""
        self._require()
        with self._temporary(document) as path:
            yield path

    @contextmanager
    def _temporary(self, document: bytes) -> Iterator[Path]:
        disk.make_folder(folder := self._folder / layout.PARTIAL)
        with disk.temporary(folder) as (number, path):
            disk.write(number, [document])
            os.fchmod(number, _READ_ONLY)
            os.fsync(number)
            yield path


def _is_needed(aside: Path, before: float, key: str, respected: Claims) -> bool:
    """Whether a file that was moved aside is young or claimed; so is one while claims are odd."""
    if aside.stat().st_mtime > before:
        return True
    try:
        return key in respected.read()
    except (OSError, Rejected):
        aside.rename(aside.parents[1] / key)
        raise


def room_at(folder: Path) -> Room:
    """The room on the disk of a folder, or of the nearest one above that exists.

    Raises:
        ConfigError: the operator may not read it.
        Unavailable: so, but a retry may help.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    with translated(folder):
        found = os.statvfs(folder)
    return Room(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)
