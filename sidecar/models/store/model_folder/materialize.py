"""Makes one file of a snapshot from its blob: by a reflink, a hard link, or a copy.

Acts: os.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from sidecar.models.store.documents import layout
from sidecar.models.store.documents.snapshot import StoredFile
from sidecar.models.store.places import disk, hashing
from sidecar.models.store.places.backend import Backend
from sidecar.models.store.places.faults import translated
from sidecar.models.store.places.hashing import Digest, hashed
from sidecar.models.store.progress import Progress
from sidecar.runtime.errors import Corrupt

_FICLONE = 0x40049409
_NO_CLONES = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS}
# Also of another owner, for whom the kernel refuses links; and of too many links.
_NO_LINKS = {errno.EPERM, errno.EACCES, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS}
_EXECUTE = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH
_MODE = 0o644


class How(StrEnum):
    """How a file shares its content with the blob; a linked one is read-only."""

    REFLINK = "reflink"
    LINK = "link"
    COPY = "copy"


def make(backend: Backend, file: StoredFile, target: Path, copy: bool, progress: Progress) -> How:
    """Make a file, verified and durable but for its name.

    Args:
        backend: the store.
        file: the file of the snapshot.
        target: where it is to be; its folder exists.
        copy: whether it has to be a copy.
        progress: counts the bytes that are read.

    Raises:
        NotFound: the store lacks the blob.
        Corrupt: the blob is not what its digest says; there is no file then.
    """
    blob = backend.path(layout.blob(file.digest))
    if blob is not None and not copy:
        how = _linked(blob, target, file.executable)
        if how is not None:
            _verify(target, file, progress)
            return how
    _copied(backend, file, target, progress)
    return How.COPY


def is_made(target: Path, file: StoredFile) -> bool:
    """Whether a file is there with this content and right to execute; reads it all."""
    try:
        found = target.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_size != file.size:
            return False
        if bool(found.st_mode & stat.S_IXUSR) != file.executable:
            return False
        return hashing.digest_of(disk.read(target))[1] == file.digest
    except OSError:
        return False


def _linked(blob: Path, target: Path, executable: bool) -> How | None:
    """Make a file from a blob without a copy; None if that is impossible here."""
    if _reflinked(blob, target, executable):
        return How.REFLINK
    if executable:  # all links share their rights
        return None
    with translated(target):
        try:
            target.hardlink_to(blob)
        except FileNotFoundError:  # the copy will say so
            return None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return None
    return How.LINK


def _reflinked(blob: Path, target: Path, executable: bool) -> bool:
    with translated(target):
        try:
            source = os.open(blob, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            number = _new(target, executable)
            try:
                fcntl.ioctl(number, _FICLONE, source)
                os.fsync(number)
                return True
            except OSError as error:
                target.unlink()
                if error.errno not in _NO_CLONES:
                    raise
                return False
            finally:
                os.close(number)
        finally:
            os.close(source)


def _verify(target: Path, file: StoredFile, progress: Progress) -> None:
    try:
        with translated(target):
            size, digest = hashing.digest_of(progress.through(disk.read(target)))
        _compare(file, size, digest)
    except BaseException:
        with suppress(OSError):
            target.unlink()
        raise


def _copied(backend: Backend, file: StoredFile, target: Path, progress: Progress) -> None:
    chunks = progress.through(backend.chunks(layout.blob(file.digest)))
    with translated(target):
        number = _new(target, file.executable)
        try:
            with Digest() as digest:
                disk.write(number, _limited(hashed(chunks, digest), file))
                _compare(file, digest.size, digest.hexadecimal())
            os.fsync(number)
        except BaseException:
            with suppress(OSError):
                target.unlink()
            raise
        finally:
            os.close(number)


def _limited(chunks: Iterator[bytes], file: StoredFile) -> Iterator[bytes]:
    """The chunks, until they are more than they should be: a full disk must not result."""
    size = 0
    for chunk in chunks:
        if (size := size + len(chunk)) > file.size:
            _compare(file, size, "")
        yield chunk


def _compare(file: StoredFile, size: int, digest: str) -> None:
    """Raise Corrupt if this is not the file's size and digest."""
    if size != file.size:
        raise Corrupt(f"{file.path}: expected {file.size} bytes, found {size} or more")
    if digest != file.digest:
        raise Corrupt(f"{file.path}: expected digest {file.digest}, found {digest}")


def _new(target: Path, executable: bool) -> int:
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
    return os.open(target, flags, _MODE | (_EXECUTE if executable else 0))
