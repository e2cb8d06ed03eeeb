"""A disk of a cluster that can become full: its logs, and the state files of sidecars and xds.

It is a tmpfs in a mount namespace that a child process holds, and is reached through `/proc`. So
nothing is mounted where others see it, and all of it is gone with this process, even the logs if it
is killed.

Acts: os, shutil.
"""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from sidecar.drill.cluster.holder import Holder
from sidecar.runtime.errors import Unavailable

DISK, LOGS = "disk", "logs"
_SIZE = 128 << 20  # bytes; those that are written are in memory
_MOUNT = 'mount -t tmpfs -o "size=$1,mode=0755" tmpfs "$2" && mkdir "$2/logs" && exec cat'
_BLOCKS = (1 << 20, 4096)  # bytes that are written at once, until one does not fit


@contextmanager
def small_disk(folder: Path, inside: Sequence[str], size: int = _SIZE) -> Iterator[None]:
    """Have `disk` and `logs` in a folder on a small disk during the context.

    At the end `logs` is an ordinary folder with the same files. If some are missing there, or end
    early because the disk was full, standard error says so.

    Args:
        folder: an absolute one that has neither.
        inside: prefix of a command that may mount something.
        size: of the disk, in bytes.

    Raises:
        Unavailable: it cannot be mounted; the message says why.
    """
    (mounted := folder / f".{DISK}").mkdir(exist_ok=True)
    holder = _mounted(mounted, inside, size)
    try:
        (folder / DISK).symlink_to(f"/proc/{holder.pid}/root{mounted}")
        (folder / LOGS).symlink_to(Path(DISK, LOGS))
        yield
    finally:
        _keep_logs(folder)
        holder.end()


def ordinary_disk(folder: Path) -> None:
    """Have them as ordinary folders."""
    for name in (DISK, LOGS):
        (folder / name).mkdir(exist_ok=True)


@contextmanager
def filled(by: Path) -> Iterator[None]:
    """Fill a disk with a file during the context: writes that need a block fail with ENOSPC."""
    try:
        with by.open("wb", buffering=0) as file:
            for block in _BLOCKS:
                zeros = bytes(block)
                with suppress(OSError):
                    while file.write(zeros):
                        pass
        yield
    finally:
        by.unlink(missing_ok=True)


def _mounted(place: Path, inside: Sequence[str], size: int) -> Holder:
    """What holds the disk.

    Raises:
        Unavailable: it cannot be mounted.
    """
    try:
        return Holder(
            (*inside, "unshare", "--mount", "sh", "-c", _MOUNT, "sh", str(size), str(place))
        )
    except Unavailable as error:
        complaint = str(error).replace("\n", "; ")
        raise Unavailable(f"no tmpfs can be mounted: {complaint}") from error


def _keep_logs(folder: Path) -> None:
    """Replace the link by a folder with its files, as many as can be had."""
    logs, kept = folder / LOGS, folder / f".{LOGS}"
    try:
        if not os.statvfs(logs).f_bavail:
            _warn(f"{logs}: the small disk was full at the end: the last lines are missing")
        shutil.copytree(logs, kept)
    except OSError as error:  # such as no room elsewhere, or the holder was killed
        _warn(f"{logs}: not all logs could be kept: {error}")
    kept.mkdir(exist_ok=True)
    logs.unlink(missing_ok=True)
    kept.rename(logs)


def _warn(text: str) -> None:
    print(f"triton-sidecar: {text}", file=sys.stderr)
