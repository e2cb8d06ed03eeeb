"""Files that are read in chunks, written sparsely, and safe before they have their name.

A temporary file is locked for as long as its writer lives, so that others know which are abandoned.

Acts: os, time.
"""

import fcntl
import os
import stat
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sidecar.models.store.places.hashing import CHUNK

_HOLE = 2**18  # bytes; shorter runs of zeros are written
_ZEROS = bytes(64)
_BOOT = Path("/proc/sys/kernel/random/boot_id")
# Seconds after which the temporary file of another machine is abandoned if it is not locked: where
# a network mount does not share its locks, a writer is known by its writing alone.
_ABANDONED = 900.0
_UNLOCKED = 86400.0  # the same where files cannot be locked at all


def read(path: Path) -> Iterator[bytes]:
    """The content of a file in chunks; raises OSError."""
    # Non-blocking, in case it has become a pipe.
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        while chunk := os.read(number, CHUNK):
            yield chunk
    finally:
        os.close(number)


def size(path: Path) -> int:
    """The bytes of a file that is there now; raises OSError.

    It is opened, because a network mount may remember the name of one that is gone.
    """
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.fstat(number).st_size
    finally:
        os.close(number)


def refresh(folder: Path) -> None:
    """Change a folder, so that a network mount lists it as it is now; raises OSError."""
    with suppress(FileNotFoundError):  # there is no folder
        (path := folder / f".{uuid.uuid4().hex}").touch()
        path.unlink()


def write(number: int, chunks: Iterable[bytes]) -> int:
    """Write an empty file, with holes for zeros; gives its size in bytes. Raises OSError."""
    size = 0
    for chunk in chunks:
        if _is_hole(chunk):
            os.lseek(number, len(chunk), os.SEEK_CUR)
        else:
            _write_all(number, chunk)
        size += len(chunk)
    os.ftruncate(number, size)
    return size


def _is_hole(chunk: bytes) -> bool:
    """Whether a chunk is long, and only zeros; the beginning tells nearly always."""
    return len(chunk) >= _HOLE and chunk.startswith(_ZEROS) and chunk.count(0) == len(chunk)


def _write_all(number: int, chunk: bytes) -> None:
    left = memoryview(chunk)
    while left:
        left = left[os.write(number, left) :]


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable; raises OSError."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, durably; raises OSError."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir()
    sync_folder(folder.parent)


@contextmanager
def temporary(folder: Path) -> Iterator[tuple[int, Path]]:
    """A new file in a folder, open for writing and locked; gone at the end unless it was renamed.

    Raises:
        OSError: it cannot be made.
    """
    number, path = _made(folder)
    try:
        yield number, path
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        os.close(number)


def _made(folder: Path) -> tuple[int, Path]:
    while True:
        path = folder / f"{_boot()}-{uuid.uuid4().hex}"
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        number = os.open(path, flags, 0o600)
        if _try_lock(number) and os.fstat(number).st_nlink:
            return number, path
        os.close(number)  # another process took it for abandoned before it was locked


def remove_if_abandoned(path: Path, now: float) -> bool:
    """Remove a temporary file whose writer is gone; whether it was removed.

    `now` is in Unix seconds by the clock that gives files their times: a server's, on a share.
    """
    try:
        number = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # it is gone, or another user's
        return False
    try:
        if not _is_abandoned(number, path.name, now):
            return False
        path.unlink()
        return True
    except OSError:
        return False
    finally:
        os.close(number)


def _is_abandoned(number: int, name: str, now: float) -> bool:
    found = os.fstat(number)
    age = now - max(found.st_mtime, found.st_ctime)
    if not stat.S_ISREG(found.st_mode):
        return False
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return age > _UNLOCKED
    return name.startswith(f"{_boot()}-") or age > _ABANDONED


def _boot() -> str:
    """The start of this boot's id: locks work among the processes of one kernel at least."""
    try:
        return _BOOT.read_text(encoding="ascii")[:8]
    except OSError:
        return "unknown"


@contextmanager
def locked(path: Path, patience: float) -> Iterator[None]:
    """Hold a lock file during the context; without it where files cannot be locked.

    Raises:
        TimeoutError: another process has held it for `patience` seconds.
        OSError: the file cannot be made.
    """
    number = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
    try:
        until = time.monotonic() + patience
        while not _try_lock(number):
            if time.monotonic() > until:
                raise TimeoutError(f"another process has locked it for {patience:g} s")
            time.sleep(0.05)
        yield
    finally:
        os.close(number)


def _try_lock(number: int) -> bool:
    """Lock a file unless another process has; True as well where files cannot be locked."""
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
