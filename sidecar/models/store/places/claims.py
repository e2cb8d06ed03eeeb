"""What writers rely on in a folder, so that a sweep leaves it: a file for each claim.

A writer writes its claim, and then looks what is there. A sweep moves a blob aside, and then reads
the claims: one of the two sees the other, and no writer waits. No file of a model is touched:
folders that were pulled may be links to it. A released claim stays for a day, with a mark: a sweep
that planned before its writer had named anything needs it.

Acts: through what it imports.
"""

import json
from collections.abc import Set
from contextlib import suppress
from pathlib import Path

from sidecar.models.store.places import disk
from sidecar.runtime.errors import Rejected

_DONE = ".done"
_LASTS = 86400.0  # seconds; a claim of a dead writer, or a released one
_SUFFIX = ".json"


def dump(keys: Set[str]) -> bytes:
    """The document of a claim."""
    return json.dumps(sorted(keys)).encode()


def done(folder: Path, claim: str) -> None:
    """Mark a claim as released; raises OSError."""
    (folder / f"{claim}{_DONE}").touch(0o444)


def file_name(claim: str) -> str:
    """The name of a claim's file."""
    return f"{claim}{_SUFFIX}"


def tidy(folder: Path, now: float) -> int:
    """Remove claims that nobody needs any more; gives how many. `now` is of the folder's clock."""
    removed = 0
    for path in sorted(_files(folder), key=lambda path: path.suffix == _DONE):  # marks last
        with suppress(OSError):  # it is gone, or another user's folder
            if now - path.stat().st_mtime > _LASTS:
                path.unlink()
                removed += 1
    return removed


class Claims:
    """The claims that one sweep respects: all but those released before it has planned."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known = {path.stem for path in _files(folder) if path.suffix == _DONE}
        self.keys: set[str] = set()

    def read(self) -> Set[str]:
        """What writers rely on now.

        Raises:
            OSError: a claim cannot be read.
            Rejected: it is none.
        """
        disk.refresh(self._folder)
        for path in _files(self._folder):
            if path.suffix != _SUFFIX or path.stem in self._known:
                continue
            with suppress(FileNotFoundError):  # it was a day old
                self.keys |= _load(path)
            self._known.add(path.stem)
        return self.keys


def _load(path: Path) -> set[str]:
    try:
        return set(map(str, json.loads(path.read_bytes())))
    except (ValueError, TypeError) as error:
        raise Rejected(f"{path}: expected the claim of a writer; remove it by hand") from error


def _files(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []
