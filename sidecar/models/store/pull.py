"""Makes the folder of a model from a snapshot, verified, as a whole or not at all.

It is made next to its target under a temporary name, which says of which snapshot it is: so a pull
that was stopped resumes. Nothing is written into the store.

Acts: os, shutil.
"""

import fcntl
import os
import re
import shutil
import stat
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from sidecar.models import manifest
from sidecar.models.store import several
from sidecar.models.store.contents import Stored
from sidecar.models.store.documents import layout
from sidecar.models.store.documents.snapshot import StoredFile
from sidecar.models.store.model_folder import exchange, materialize, recognition
from sidecar.models.store.model_folder.materialize import How
from sidecar.models.store.places import disk
from sidecar.models.store.places.backend import Backend
from sidecar.models.store.places.faults import translated
from sidecar.models.store.places.folder import room_at
from sidecar.models.store.progress import Progress
from sidecar.runtime.amounts import in_bytes
from sidecar.runtime.errors import ConfigError, Conflict, Corrupt, NoRoom, NotFound

_SPARE = 2**20  # bytes for folders
_SHORT = 16  # hex digits of a digest in a temporary name
_WRITABLE = 0o200


@dataclass(frozen=True, slots=True)
class Pulled:
    """What came of it: how files were made, or that all of it was there before.

    `left` is the folder that was replaced, if it could not be removed.
    """

    known: bool = False
    made: Mapping[How, int] = field(default_factory=dict)
    left: Path | None = None


def pull(
    backend: Backend,
    stored: Stored,
    target: Path,
    progress: Progress,
    *,
    copy: bool = False,
    replace: bool = False,
) -> Pulled:
    """Make the folder of a snapshot.

    Args:
        backend: the store.
        stored: the snapshot.
        target: the folder; the one above it exists.
        progress: counts the bytes that are read.
        copy: whether files must be copies, so that they can be edited.
        replace: whether the folder of a model there may be replaced.

    Raises:
        Conflict: something else is there, such as a folder of models, or another pull makes it.
        Corrupt: a blob is not what its digest says.
        NotFound: the store lacks a blob.
        NoRoom: there is too little room.
    """
    target = target.absolute()
    if not target.parent.is_dir():
        raise ConfigError(f"{target}: expected its parent folder to exist")
    if os.path.lexists(target):
        progress.begin("comparing", stored.snapshot.size)
        if is_exactly(target, stored, progress):
            _remove_leftovers(target)
            return Pulled(known=True)
        if not replace:
            raise Conflict(
                f"{target} exists, and is not {stored}; --replace replaces it, when Triton "
                "does not load it"
            )
        if why := recognition.why_kept(target):
            raise Conflict(f"{target} is not replaced: {why}")
    with _locked(_work(target, stored)) as work:
        made = _Pull(backend, stored, work, copy, progress).run()
        with translated(target):
            left = _put(work, target, replace)
    _remove_leftovers(target)
    return Pulled(made=made, left=left)


def is_exactly(target: Path, stored: Stored, progress: Progress) -> bool:
    """Whether a folder has the files of a snapshot, and no others that count; reads them all.

    Triton's Python backend writes bytecode next to a model; what a push leaves out does not count.
    """
    files = {file.path: file for file in stored.snapshot.all_files}
    found_files, found_folders = set(), set()
    if target.is_symlink() or not target.is_dir():
        return False
    with translated(target):
        for folder, inside, here in os.walk(target):
            below = Path(folder).relative_to(target)
            found_files |= {(below / name).as_posix() for name in here if _counts(below / name)}
            found_folders |= {(below / name).as_posix() for name in inside if _counts(below / name)}
    if found_files != files.keys() or found_folders != _folders(stored):
        return False
    for path, file in files.items():
        if not materialize.is_made(target / path, file):
            return False
        progress.add(file.size)
    return True


def _counts(path: Path) -> bool:
    """Whether a push would store a file or folder, by its path below the model's folder."""
    parts = path.parts
    return manifest.counts(parts, parts[:1]) or (len(parts) == 1 and manifest.is_canary(parts[0]))


def _folders(stored: Stored) -> set[str]:
    """All folders of a snapshot, below the model's."""
    above = (Path(file.path).parents for file in stored.snapshot.all_files)
    more = ((Path(name), *Path(name).parents) for name in stored.snapshot.folders)
    return {path.as_posix() for paths in (*above, *more) for path in paths} - {"."}


class _Pull:
    """One pull into a temporary folder, in which some of it may be already."""

    def __init__(
        self, backend: Backend, stored: Stored, work: Path, copy: bool, progress: Progress
    ) -> None:
        self._backend = backend
        self._stored = stored
        self._work = work
        self._copy = copy
        self._progress = progress

    def run(self) -> Mapping[How, int]:
        self._progress.begin("pulling", self._stored.snapshot.size)
        folders = sorted(_folders(self._stored))
        with translated(self._work):
            self._remove_others(folders)
            for name in folders:
                (self._work / name).mkdir(exist_ok=True)
        files = [file for file in self._stored.snapshot.all_files if not self._is_there(file)]
        self._check_room(files)
        made = Counter(several.each(self._make, files, lambda file: file.size))
        with translated(self._work):
            for name in (*reversed(folders), "."):
                disk.sync_folder(self._work / name)
        return made

    def _remove_others(self, folders: list[str]) -> None:
        """Remove what is not in the snapshot: a stopped exchange leaves the old folder."""
        files = {file.path for file in self._stored.snapshot.all_files}
        for folder, inside, here in os.walk(self._work):
            below = Path(folder).relative_to(self._work)
            for name in inside:
                found = Path(folder, name)
                if (below / name).as_posix() not in folders or found.is_symlink():
                    _remove(found)
            for name in here:
                if (below / name).as_posix() not in files:
                    Path(folder, name).unlink()

    def _is_there(self, file: StoredFile) -> bool:
        path = self._work / file.path
        if not materialize.is_made(path, file) or (self._copy and path.stat().st_nlink > 1):
            with translated(path):
                path.unlink(missing_ok=True)
            return False
        self._progress.add(file.size)
        return True

    def _check_room(self, files: list[StoredFile]) -> None:
        """Raise NoRoom if copies do not fit."""
        needed = sum(self._allocated(file) for file in files if self._will_copy(file))
        room = room_at(self._work)
        if needed and needed + _SPARE > room.free:
            raise NoRoom(
                f"{self._work.parent}: {in_bytes(needed)} are to be copied, and "
                f"{in_bytes(room.free)} of {in_bytes(room.total)} are free"
            )

    def _will_copy(self, file: StoredFile) -> bool:
        blob = self._backend.path(layout.blob(file.digest))
        if blob is None or self._copy:
            return True
        with suppress(OSError):
            return blob.stat().st_dev != self._work.stat().st_dev
        return True

    def _allocated(self, file: StoredFile) -> int:
        """The bytes that a file will take up: without holes, if the blob has some."""
        blob = self._backend.path(layout.blob(file.digest))
        with suppress(OSError):
            if blob is not None:
                return min(file.size, blob.stat().st_blocks * 512)
        return file.size

    def _make(self, file: StoredFile) -> How:
        target = self._work / file.path
        try:
            return materialize.make(self._backend, file, target, self._copy, self._progress)
        except (Corrupt, NotFound) as error:
            error.add_note(
                f"{self._stored} in {self._backend.place} is damaged: push the same files again "
                "with --verify, or copy it from another store"
            )
            raise


def _work(target: Path, stored: Stored) -> Path:
    return target.parent / f".{target.name}.{stored.digest[:_SHORT]}.pull"


def _leftovers(target: Path) -> Iterator[Path]:
    """The temporary folders of pulls to a target, and their locks."""
    pattern = re.compile(
        rf"\.{re.escape(target.name)}\.[0-9a-f]{{{_SHORT}}}\.(pull|lock|old-[0-9a-f]{{8}})"
    )
    yield from (path for path in target.parent.iterdir() if pattern.fullmatch(path.name))


@contextmanager
def _locked(work: Path) -> Iterator[Path]:
    """A temporary folder, made if it is not there, which no other process uses.

    Raises:
        Conflict: one does.
    """
    with translated(work), _holding(work) as locked:
        if locked is False:
            raise Conflict(f"{work}: another pull makes this folder at the moment")
        work.mkdir(exist_ok=True)
        yield work


@contextmanager
def _holding(work: Path) -> Iterator[bool | None]:
    """Hold the lock of a temporary folder, a file next to it: NFS locks no folders.

    Gives False if another process has it, and None where nothing can be locked.
    """
    path = work.with_suffix(".lock")
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        locked = _lock(number)
        if not _is(number, path):  # its holder has removed it since
            locked = False
        try:
            yield locked
        finally:
            if locked is not False:
                path.unlink(missing_ok=True)
    finally:
        os.close(number)


def _lock(number: int) -> bool | None:
    """Lock an open file; None where files cannot be locked, as on some network mounts."""
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is(number: int, path: Path) -> bool:
    """Whether an open file is still at a path."""
    own = os.fstat(number)
    with suppress(FileNotFoundError):
        found = path.lstat()
        return (own.st_dev, own.st_ino) == (found.st_dev, found.st_ino)
    return False


def _put(work: Path, target: Path, replace: bool) -> Path | None:
    """Give a complete folder its name; one that was there gets another, until it is removed.

    Gives where the old one is if it cannot be removed: a container may have written bytecode into
    it as another user. The pull is done then.
    """
    if replace and os.path.lexists(target):
        aside = work.with_suffix(f".old-{uuid.uuid4().hex[:8]}")
        exchange.exchange(work, target, aside)
        try:
            _remove(aside)
        except OSError:
            return aside
        return None
    try:
        exchange.place(work, target)
    except FileExistsError:
        raise Conflict(f"{target} was made by another process at the same moment") from None
    return None


def _remove_leftovers(target: Path) -> None:
    """Remove what other pulls to a target left that have ended; best effort."""
    for path in list(_leftovers(target)):
        with suppress(OSError), _holding(path) as locked:
            if locked and path.suffix != ".lock":
                _remove(path)


def _remove(path: Path) -> None:
    path.unlink() if path.is_symlink() or not path.is_dir() else remove_tree(path)


def remove_tree(path: Path) -> None:
    """Remove a folder, also with folders in it that are read-only; raises OSError."""
    for folder, inside, _ in os.walk(path):
        for name in inside:
            found = Path(folder, name)
            if not found.is_symlink() and not found.stat().st_mode & _WRITABLE:
                found.chmod(stat.S_IMODE(found.stat().st_mode) | 0o700)
    shutil.rmtree(path)
