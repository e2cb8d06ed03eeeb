"""A disk of a cluster that can become full: its logs, and what its sidecars and planes keep.

It is a tmpfs in a mount namespace that a child process holds, and is reached through `/proc`. So
nothing is mounted where others see it, and all of it is gone with this process.

Acts: os, shutil, subprocess.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

DISK, LOGS = "disk", "logs"
_SIZE = 128 << 20  # bytes; those that are written are in memory
_MOUNT = 'mount -t tmpfs -o "size=$1,mode=0755" tmpfs "$2" && mkdir "$2/logs" && exec cat'
_BLOCKS = (1 << 20, 4096)  # bytes that are written at once, until one does not fit


@contextmanager
def small_disk(folder: Path, inside: Sequence[str] | None, size: int = _SIZE) -> Iterator[bool]:
    """Have `disk` and `logs` in a folder on a small disk during the context.

    Gives whether they are: where nothing can be mounted, they are ordinary folders. At the end
    `logs` is an ordinary folder with the same files.

    Args:
        folder: an absolute one that has neither.
        inside: prefix of a command that may mount something; None for ordinary folders.
        size: of the disk, in bytes.
    """
    (mounted := folder / f".{DISK}").mkdir()
    holder = None if inside is None else _mounted(mounted, inside, size)
    if holder is None:
        (folder / DISK).mkdir()
        (folder / LOGS).mkdir(exist_ok=True)
        yield False
        return
    try:
        (folder / DISK).symlink_to(f"/proc/{holder.pid}/root{mounted}")
        (folder / LOGS).symlink_to(Path(DISK, LOGS))
        yield True
    finally:
        with suppress(OSError):  # such as no room elsewhere
            _keep_logs(folder)
        _end(holder)


@contextmanager
def filled(by: Path) -> Iterator[None]:
    """Have a file fill its disk during the context: who needs a block there gets ENOSPC."""
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


def _mounted(place: Path, inside: Sequence[str], size: int) -> "subprocess.Popen[bytes] | None":
    """The process that holds the disk; None if it cannot be mounted."""
    command = (*inside, "unshare", "--mount", "sh", "-c", _MOUNT, "sh", str(size), str(place))
    try:
        holder = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return None
    if _echoes(holder):  # `cat` runs only if it is mounted
        return holder
    _end(holder)
    return None


def _echoes(holder: "subprocess.Popen[bytes]") -> bool:
    if not (holder.stdin and holder.stdout):
        return False
    with suppress(BrokenPipeError):
        os.write(holder.stdin.fileno(), b"\n")
    return holder.stdout.readline() == b"\n"


def _keep_logs(folder: Path) -> None:
    """Replace the link by a folder with its files."""
    kept = folder / f".{LOGS}"
    shutil.copytree(folder / LOGS, kept)
    (folder / LOGS).unlink()
    kept.rename(folder / LOGS)


def _end(holder: "subprocess.Popen[bytes]") -> None:
    holder.kill()
    holder.communicate()
