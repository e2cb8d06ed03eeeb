"""Where what a later life needs to know is kept: read at the start, written when it changes.

Nothing that goes wrong here stops a control plane; it is told, and tried again.
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

_LARGEST = 256 * 1024 * 1024  # bytes of a file that is read
_PAUSE = 1.0  # seconds between two writings at least
_RETRY = 30.0  # seconds until the next attempt if nothing changes


class StateFileListener(Protocol):
    """Told what becomes of the file, for metrics and logs."""

    def state_read(self, path: Path, age: float, services: tuple[str, ...]) -> None:
        """It is believed of these services; `age` is how many seconds ago it was written."""

    def state_refused(self, path: Path, why: str) -> None:
        """It is not believed."""

    def state_written(self) -> None:
        """It holds the newest."""

    def state_unwritten(self, path: Path, why: str) -> None:
        """It holds something older; another attempt will follow."""


class StateFile:
    """One file with the newest `CachedState`."""

    def __init__(self, path: Path, clock: Clock, listener: StateFileListener) -> None:
        self._path = path
        self._clock = clock
        self._listener = listener
        # What the file holds, as far as is known.
        self._written: CachedState | None = None
        self._writing = threading.Lock()

    def read(self, services: tuple[str, ...]) -> CachedState | None:
        """What was kept of these services, or None if nothing can be believed."""
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

    async def run(self, newest: Callable[[], CachedState | None], *made_of: Latest[Any]) -> None:
        """Write the newest state for ever, whenever one of the cells that it is made of changes."""
        while True:
            versions = [cell.version for cell in made_of]
            done = await self.write(newest())
            await self._clock.sleep(_PAUSE)
            news = [cell.changed(since) for cell, since in zip(made_of, versions, strict=True)]
            await first_of(self._clock, None if done else _RETRY, *news)

    async def write(self, state: CachedState | None) -> bool:
        """Write it unless the file has it already; gives whether the file has it now."""
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
        """In a thread, which goes on if its waiter is cancelled: one after the other."""
        with self._writing:
            atomic_file.replace(self._path, cached_state.dump(state, saved))

    def _put_aside(self) -> str:
        """Keep a damaged file for inspection; the next writing would replace it."""
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
        Unusable: it is none, or no file of ours is so large.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # reading a pipe or a device might never end
        raise UnusableState("expected a file, found something else")
    if found.st_size > _LARGEST:
        raise UnusableState(f"expected at most {_LARGEST} bytes, found {found.st_size}")
    return path.read_bytes()
