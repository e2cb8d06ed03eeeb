"""Reads Triton's model repository where it is a folder on this machine.

Acts: os, time.
"""

import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from types import MappingProxyType
from typing import Generic, NamedTuple, TypeVar

from sidecar.models.manifest import (
    ConfigFile,
    ModelFiles,
    config_file,
    counts,
    in_order,
    is_version,
)
from sidecar.runtime.errors import ConfigError, Unavailable
from sidecar.triton.config_pbtxt import parse_config
from sidecar.triton.model_config import without_tuning

T = TypeVar("T")
_CONFIG = "config.pbtxt"
Versions = tuple[str, ...]
_CHUNK = 2**18  # bytes read at once
_LARGEST_CONFIG = 2**20  # bytes
# Seconds. File system timestamps have a granularity of up to two seconds: a file changed so shortly
# before it was read may change again and keep its timestamp.
_SETTLING = 3.0
_FOR_THE_OPERATOR = {errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR}


class _Stamp(NamedTuple):
    """Identifies a file and its content without reading it.

    It includes the inode's change time, because tools that copy in place reset the modification
    time.
    """

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, found: os.stat_result) -> "_Stamp":
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class _Cache(Generic[T]):
    """Values computed from files, valid while the files' stamps are unchanged."""

    def __init__(self) -> None:
        self._by_path: dict[Path, tuple[_Stamp, bool, T]] = {}

    def get(self, path: Path, stamp: _Stamp) -> T | None:
        known, settled, value = self._by_path.get(path, (None, False, None))
        return value if settled and known == stamp else None

    def put(self, path: Path, stamp: _Stamp, value: T, began: float) -> None:
        """Store a value; `began` is when reading the file began, in Unix seconds."""
        self._by_path[path] = (stamp, stamp.changed < (began - _SETTLING) * 1e9, value)

    def keep_only(self, paths: set[Path]) -> None:
        for path in self._by_path.keys() - paths:
            del self._by_path[path]


@dataclass(frozen=True, slots=True)
class _Listed:
    """A model's files before reading: name below the model's folder, path and stamp."""

    name: str
    versions: Versions
    config: ConfigFile
    files: tuple[tuple[str, Path, _Stamp], ...]


class Repository:
    """The files of models; a file is read again only if its stamp has changed.

    `bytes_read` counts all reads. Every call blocks, for minutes if there is much to read: do not
    call it on an event loop.

    Args:
        folder: the repository, with a folder for each model.
        wall: gives Unix seconds.
        depends_on: the models that a model calls itself, which no file shows.
    """

    def __init__(
        self,
        folder: Path,
        wall: Callable[[], float] = time.time,
        depends_on: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        self._folder = folder
        self._depends_on = depends_on
        self._wall = wall
        self._contents: _Cache[str] = _Cache()
        self._configs: _Cache[ConfigFile] = _Cache()
        self.bytes_read = 0

    def read(self, served: Mapping[str, Versions | None]) -> tuple[ModelFiles, ...]:
        """The files of models, and of their steps and dependencies.

        Args:
            served: the loaded versions; None for those that Triton would load.

        Raises:
            ConfigError: Triton could not load these models from the repository, or the sidecar may
                not read it.
            Unavailable: it cannot be read now, or has changed while it was read.
        """
        before = self.bytes_read
        listing = self._listing(served)
        paths = {path for model in listing for _, path, _ in model.files}
        self._contents.keep_only(paths)
        self._configs.keep_only(paths)
        models = tuple(
            ModelFiles(
                model.name,
                model.versions,
                tuple(
                    (name, self._content(path, stamp) if name != _CONFIG else model.config.content)
                    for name, path, stamp in model.files
                ),
            )
            for model in listing
        )
        # Files that were read one after the other must have existed at the same time.
        if self.bytes_read > before and self._listing(served) != listing:
            raise Unavailable(f"{self._folder} has changed while it was read")
        return models

    def _listing(self, served: Mapping[str, Versions | None]) -> tuple[_Listed, ...]:
        found: dict[str, _Listed] = {}
        wanted = dict(served)
        while wanted:
            name, versions = wanted.popitem()
            folder = self._model(name)
            config = self._config(folder / _CONFIG)
            found[name] = _listed(folder, versions, config)
            needed = (*config.steps, *self._depends_on.get(name, ()))
            wanted |= {each: None for each in needed if each not in {*found, *served}}
        return tuple(found[name] for name in sorted(found))

    def _model(self, name: str) -> Path:
        folder = self._folder / name
        with _translated_errors(folder):
            if name == folder.name and folder.is_dir():
                return folder
        wanted = f"the folder of the model {name!r:.80} in Triton's repository"
        raise ConfigError(f"triton.repository: expected {wanted}, found no {folder}")

    def _config(self, path: Path) -> ConfigFile:
        with _translated_errors(path):
            if not os.path.lexists(path):
                return ConfigFile()  # Triton generates one for some kinds of models
            stamp = _Stamp.of(path.stat())
        known = self._configs.get(path, stamp)
        if known is None:
            if stamp.size > _LARGEST_CONFIG:
                raise ConfigError(f"{path}: expected at most {_LARGEST_CONFIG} bytes")
            began = self._wall()
            raw = b"".join(map(bytes, self._chunks(path, stamp)))
            try:
                text = raw.decode()
                known = replace(config_file(parse_config(text)), content=_content_of(text))
            except ValueError as error:
                raise ConfigError(f"{path}: expected a model's config: {error}") from error
            self._configs.put(path, stamp, known, began)
        return known

    def _content(self, path: Path, stamp: _Stamp) -> str:
        known = self._contents.get(path, stamp)
        if known is None:
            began, total = self._wall(), hashlib.sha256()
            for chunk in self._chunks(path, stamp):
                total.update(chunk)
            known = total.hexdigest()
            self._contents.put(path, stamp, known, began)
        return known

    def _chunks(self, path: Path, stamp: _Stamp) -> Iterator[memoryview]:
        """The file's content in chunks; each is valid until the next is requested."""
        room = memoryview(bytearray(_CHUNK))
        with _translated_errors(path), _opened(path) as file:
            while count := file.readinto(room):
                self.bytes_read += count
                yield room[:count]
            if _Stamp.of(os.fstat(file.fileno())) != stamp:
                raise Unavailable(f"{path} has changed while it was read")


def _listed(folder: Path, versions: Versions | None, config: ConfigFile) -> _Listed:
    with _translated_errors(folder):
        names = {path.name for path in folder.iterdir() if is_version(path.name) and path.is_dir()}
    chosen = config.policy.chosen(names) if versions is None else in_order(versions)
    for version in chosen:
        if version not in names:
            wanted = f"the folder of version {version}, which Triton has loaded"
            raise ConfigError(f"triton.repository: {folder}: expected {wanted}")
    if not chosen:
        wanted = "a version that the version_policy in config.pbtxt lets Triton load"
        raise ConfigError(f"triton.repository: {folder}: expected {wanted}")
    return _Listed(folder.name, chosen, config, tuple(_walk(folder, (), chosen, ())))


def _content_of(text: str) -> str:
    """A digest of what a config.pbtxt says; of its bytes if it has fields newer than our protos."""
    try:
        normalized = without_tuning(parse_config(text, newer=False))
    except ValueError:
        normalized = text.encode()
    return hashlib.sha256(normalized).hexdigest()


def _walk(
    folder: Path, below: tuple[str, ...], versions: Versions, within: tuple[tuple[int, int], ...]
) -> Iterator[tuple[str, Path, _Stamp]]:
    """The files that count below a model's folder.

    Links are followed, except to a folder that contains them: `within` has those folders.
    """
    with _translated_errors(folder):
        own = folder.stat()
        names = sorted(path.name for path in folder.iterdir())
    within = (*within, (own.st_dev, own.st_ino))
    for name in names:
        if not counts((*below, name), versions):
            continue
        path = folder / name
        with _translated_errors(path):
            found = path.stat()
        if stat.S_ISREG(found.st_mode):
            yield "/".join((*below, name)), path, _Stamp.of(found)
        elif not stat.S_ISDIR(found.st_mode):
            raise ConfigError(f"{path}: expected a file or a folder in the model repository")
        elif (found.st_dev, found.st_ino) not in within:
            yield from _walk(path, (*below, name), versions, within)


def _opened(path: Path) -> FileIO:
    # Non-blocking, in case the file has become a pipe since it was listed.
    return FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))


@contextmanager
def _translated_errors(path: Path) -> Iterator[None]:
    """Translate OSErrors."""
    try:
        yield
    except FileNotFoundError as error:
        if path.is_symlink():
            raise ConfigError(f"{path}: expected a link to something that is there") from error
        raise Unavailable(f"{path} has vanished while it was read") from error
    except OSError as error:
        text = f"{path}: {error.strerror}"
        if error.errno in _FOR_THE_OPERATOR:
            raise ConfigError(f"{text}; expected a file or folder that can be read") from error
        raise Unavailable(text) from error
