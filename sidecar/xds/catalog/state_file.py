"""The file with the last good catalog: read at the start, written on each change.

No failure here stops the control plane; it is reported, and the write is retried.

Acts: threading.
"""

import stat
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from sidecar.runtime import atomic_file
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import words
from sidecar.runtime.latest import Latest, first_of
from sidecar.runtime.threads import in_daemon_thread
from sidecar.xds.catalog import cached_state
from sidecar.xds.catalog.cached_state import CachedState, CorruptState, UnusableState

_LARGEST = 256 * 1024 * 1024  # bytes; a larger file is not read
_PAUSE = 1.0  # minimum seconds between two writes
_RETRY = 30.0  # seconds until a failed write is retried if nothing changes


class StateFileListener(Protocol):
    """Gets events of the file, for metrics and logs."""

    def state_read(self, path: Path, age: float, services: tuple[str, ...]) -> None:
        """It is in use for these services; `age` is how many seconds ago it was written."""

    def state_refused(self, path: Path, why: str) -> None:
        """It is not used."""

    def state_written(self) -> None:
        """It holds the newest state."""

    def state_unwritten(self, path: Path, why: str) -> None:
        """It holds an older state; the write will be retried."""


class StateFile:
    """One file with the newest `CachedState`."""

    def __init__(self, path: Path, clock: Clock, listener: StateFileListener) -> None:
        self._path = path
        self._clock = clock
        self._listener = listener
        # What the file holds, as far as known.
        self._written: CachedState | None = None
        self._writing = threading.Lock()

    def read(self, services: tuple[str, ...]) -> CachedState | None:
        """The cached state of these services, or None if the file is missing or unusable."""
        try:
            document = _read(self._path)
            state, saved = cached_state.load(document, services)
        except FileNotFoundError:
            return None
        except (OSError, UnusableState) as error:
            aside = isinstance(error, CorruptState) and self._put_aside()
            self._listener.state_refused(self._path, f"{words(error)}{aside or ''}")
            return None
        self._written = state
        age = max(0.0, self._clock.wall() - saved)
        self._listener.state_read(self._path, age, tuple(state.kept))
        return state

    async def run(self, newest: Callable[[], CachedState | None], *cells: Latest[Any]) -> None:
        """Write the newest state whenever one of the cells it is made of changes; never returns."""
        while True:
            versions = [cell.version for cell in cells]
            done = await self.write(newest())
            await self._clock.sleep(_PAUSE)
            news = [cell.changed(since) for cell, since in zip(cells, versions, strict=True)]
            await first_of(self._clock, None if done else _RETRY, *news)

    async def write(self, state: CachedState | None) -> bool:
        """Write the state unless the file has it already; returns whether the file has it now."""
        if state is None or state == self._written:
            return True
        try:
            saving = partial(self._save, state, self._clock.wall())
            await in_daemon_thread(saving, "last good catalog")
        except (OSError, ValueError) as error:
            self._listener.state_unwritten(self._path, words(error))
            return False
        self._written = state
        self._listener.state_written()
        return True

    def _save(self, state: CachedState, saved: float) -> None:
        """Runs in a thread, which continues if its waiter is cancelled: one after the other."""
        with self._writing:
            atomic_file.replace(self._path, cached_state.dump(state, saved))

    def _put_aside(self) -> str:
        """Keep a damaged file for inspection; the next write would replace it."""
        aside = self._path.with_name(f"{self._path.name}.corrupt")
        try:
            self._path.replace(aside)
        except OSError as error:
            return f"; not put aside: {error.strerror}"
        return f"; put aside as {aside.name}"


def _read(path: Path) -> bytes:
    """The file's content.

    Raises:
        OSError: it cannot be read.
        UnusableState: it is no regular file, or too large to be ours.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # reading a pipe or a device might never end
        raise UnusableState("expected a file, found something else")
    if found.st_size > _LARGEST:
        raise UnusableState(f"expected at most {_LARGEST} bytes, found {found.st_size}")
    return path.read_bytes()
