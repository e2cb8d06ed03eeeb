"""Translates errors of file systems into those of `runtime/errors.py`. Pure."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sidecar.runtime.errors import ConfigError, NoRoom, Unavailable

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FOR_THE_OPERATOR = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.ENODEV, errno.ENXIO),
}


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Translate an OSError of the block; the message begins with its path, by default this one.

    Raises:
        NoRoom: the disk is full, or a quota is.
        ConfigError: the operator has to change a right, a mount or a path.
        Unavailable: any other error.
    """
    try:
        yield
    except OSError as error:
        name = error.filename2 or error.filename
        where = name if isinstance(name, str) else path
        raise kind(error)(f"{where}: {error.strerror or error}") from error


def kind(error: OSError) -> type[ConfigError | Unavailable]:
    """The kind of error that an error of a file system is."""
    if error.errno in _FULL:
        return NoRoom
    return ConfigError if error.errno in _FOR_THE_OPERATOR else Unavailable
