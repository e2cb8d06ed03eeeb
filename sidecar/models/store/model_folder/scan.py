"""The files of a model's folder, before they are read.

Acts: os.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sidecar.models import manifest
from sidecar.models.store.documents.snapshot import is_path
from sidecar.models.store.places import disk, faults
from sidecar.runtime.errors import ConfigError, Conflict

_EXECUTABLE = stat.S_IXUSR
_BLOCK = 512  # bytes; what st_blocks counts


class Stamp(NamedTuple):
    """What shows that a file has changed: another size, time, or file."""

    device: int
    inode: int
    size: int
    modified: int

    @classmethod
    def of(cls, found: os.stat_result) -> "Stamp":
        """The stamp of a file."""
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file: `name` below the model's folder, where it is, and the bytes that it takes up."""

    name: str
    path: Path
    stamp: Stamp
    executable: bool
    allocated: int

    @property
    def size(self) -> int:
        """Its bytes, with those in holes."""
        return self.stamp.size


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model's folder: its files, the folders without files, and the canaries beside them."""

    files: tuple[FoundFile, ...]
    folders: tuple[str, ...]
    canaries: tuple[FoundFile, ...] = ()

    @property
    def all_files(self) -> tuple[FoundFile, ...]:
        """The files and the canaries."""
        return (*self.files, *self.canaries)


def model(folder: Path, canaries: Path | None = None) -> FoundModel:
    """What is in a model's folder; links are followed.

    Hidden files and bytecode are left out, as Triton's model set leaves them out.

    Args:
        folder: of one model.
        canaries: a folder with `canary.toml` and what belongs to it; by default the model's.

    Raises:
        ConfigError: something is in it that no snapshot can hold, or that cannot be read.
        Unavailable: it cannot be read now.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: expected the folder of a model")
    with _translated(folder):
        versions = [path.name for path in folder.iterdir() if manifest.is_version(path.name)]
    files: list[FoundFile] = []
    folders: list[str] = []
    counts = _Counts(versions)
    for name, found in _walk(folder, (), (), counts):
        if found is None:
            folders.append(name)
        else:
            files.append(found)
    if not files and not folders:
        raise ConfigError(f"{folder}: expected a model, found no files")
    return FoundModel(tuple(files), tuple(folders), _canaries(canaries or folder))


def read(file: FoundFile) -> Iterator[bytes]:
    """The content of a file, in chunks.

    Raises:
        ConfigError: it cannot be read.
        Conflict: it has changed since it was found, or while it was read.
        Unavailable: it cannot be read now.
    """
    with _translated(file.path):
        if Stamp.of(file.path.stat()) != file.stamp:
            raise Conflict(f"{file.path} has changed since it was found; push again")
        yield from disk.read(file.path)
        if Stamp.of(file.path.stat()) != file.stamp:
            raise Conflict(f"{file.path} has changed while it was read; push again")


@dataclass(frozen=True, slots=True)
class _Counts:
    """Which names belong to a model whose versions are these."""

    versions: list[str]

    def __call__(self, names: tuple[str, ...]) -> bool:
        return manifest.counts(names, self.versions)


def _canaries(folder: Path) -> tuple[FoundFile, ...]:
    with _translated(folder):
        found = sorted(path.name for path in folder.iterdir() if manifest.is_canary(path.name))
    return tuple(_file(name, folder / name, _status(folder / name)) for name in found)


def _walk(
    folder: Path,
    below: tuple[str, ...],
    within: tuple[tuple[int, int], ...],
    counts: Callable[[tuple[str, ...]], bool],
) -> Iterator[tuple[str, FoundFile | None]]:
    """Each file with its name below the model's folder; None for a folder without files.

    `within` has the folders on the way, to notice a link to one of them.
    """
    own = _status(folder)
    if (own.st_dev, own.st_ino) in within:
        raise ConfigError(f"{folder}: expected no link to a folder that contains it")
    within = (*within, (own.st_dev, own.st_ino))
    with _translated(folder):
        names = sorted(path.name for path in folder.iterdir())
    counted = [name for name in names if counts((*below, _readable(folder, name)))]
    if not counted and below:
        yield "/".join(below), None
    for name in counted:
        path, inside = folder / name, (*below, name)
        found = _status(path)
        if stat.S_ISDIR(found.st_mode):
            yield from _walk(path, inside, within, counts)
        else:
            yield "/".join(inside), _file("/".join(inside), path, found)


def _readable(folder: Path, name: str) -> str:
    """A name that a manifest can hold.

    Raises:
        ConfigError: it is not UTF-8.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{folder}: expected names in UTF-8, found {name!r:.300}") from None
    return name


def _file(name: str, path: Path, found: os.stat_result) -> FoundFile:
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"{path}: expected a file or a folder, found a socket, pipe or device")
    if not is_path(name):
        raise ConfigError(f"{path}: expected a name of at most 255 bytes")
    executable = bool(found.st_mode & _EXECUTABLE)
    allocated = min(found.st_size, found.st_blocks * _BLOCK)
    return FoundFile(name, path, Stamp.of(found), executable, allocated)


def _status(path: Path) -> os.stat_result:
    with _translated(path):
        return path.stat()


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Translate OSErrors; those of links say so."""
    try:
        with faults.translated(path):
            yield
    except ConfigError as error:
        cause = error.__cause__
        if isinstance(cause, FileNotFoundError) and path.is_symlink():
            raise ConfigError(f"{path}: expected a link to something that is there") from error
        if isinstance(cause, OSError) and cause.errno == errno.ELOOP:
            raise ConfigError(f"{path}: expected no link that leads back to itself") from error
        if isinstance(cause, FileNotFoundError):
            raise Conflict(f"{path} does not exist, or no more") from error
        raise
