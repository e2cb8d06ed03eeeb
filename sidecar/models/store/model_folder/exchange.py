"""Puts a folder in the place of another one.

Acts: os.
"""

import ctypes
import errno
import os
from pathlib import Path

from sidecar.models.store.places import disk

_AT_FDCWD = -100
_NOREPLACE, _EXCHANGE = 1, 2
_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}


def place(made: Path, target: Path) -> None:
    """Give a folder its name, in which nothing is yet.

    Raises:
        FileExistsError: something is.
        OSError: it failed.
    """
    if not _renamed(made, target, _NOREPLACE):
        if target.exists():  # a rename would replace an empty folder
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        made.rename(target)
    disk.sync_folder(target.parent)


def exchange(made: Path, target: Path, aside: Path) -> None:
    """Put a folder in the place of another one, which is then at `aside`.

    At every moment one of the two is at `target`, where the file system can exchange names. Where
    it cannot, nothing is there for a moment.

    Raises:
        OSError: it failed.
    """
    if _renamed(made, target, _EXCHANGE):
        disk.sync_folder(target.parent)
        made.rename(aside)
    else:
        target.rename(aside)
        made.rename(target)
    disk.sync_folder(target.parent)


def _renamed(old: Path, new: Path, flags: int) -> bool:
    """Rename as `renameat2` does; False if this system has no such call."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(old), None, str(new))
