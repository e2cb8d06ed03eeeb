"""The state file with the loaded model set, for a sidecar that starts next to a running Triton.

A fault of the file never stops the sidecar, and a hanging disk never blocks it.

Acts: asyncio.
"""

import asyncio
import stat
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sidecar.models import loaded_set
from sidecar.models.loaded_set import LoadedSet
from sidecar.runtime import atomic_file
from sidecar.runtime.clock import Clock
from sidecar.runtime.latest import Latest, first_of
from sidecar.runtime.threads import in_daemon_thread

_LINE = 4096  # bytes; the first line, which names the file's owner, is shorter
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_LARGEST = 256 * 2**20  # bytes
# The longest time between two writes, in seconds. A reload goes unnoticed by the successor if the
# model's counters have since passed the values that were saved last.
_EVERY = 30.0


class LoadedSetFile:
    """One instance's state file; another instance's file is neither read nor replaced.

    Args:
        path: the file.
        instance: the instance's id.
        clock: for pauses.
        failed: gets the reason why it cannot be read or written, each time it changes, and "" once
            it is written again; called on the event loop.
    """

    def __init__(
        self, path: Path, instance: str, clock: Clock, failed: Callable[[str], None]
    ) -> None:
        self._path = path
        self._instance = instance
        self._clock = clock
        self._failed = failed
        self._boot = _boot()
        self._why = ""
        self._writing: asyncio.Future[str] | None = None

    def read(self) -> LoadedSet:
        """The saved state, as far as it still applies; blocks."""
        try:
            self._report(self._foreign())
            if self._why or not self._path.exists() or self._path.stat().st_size > _LARGEST:
                return LoadedSet()
            return loaded_set.restore(self._path.read_bytes(), self._instance, self._boot)
        except (OSError, ValueError) as error:
            self._report(self._fault(error))
            return LoadedSet()

    async def run(self, newest: Callable[[], LoadedSet], *made_of: Latest[Any]) -> None:
        """Write the newest state periodically, and when a cell that it is made of changes."""
        while True:
            versions = [cell.version for cell in made_of]
            await self.write(newest)
            changes = [cell.changed(since) for cell, since in zip(made_of, versions, strict=True)]
            await first_of(self._clock, _EVERY, *changes)

    async def write(self, newest: Callable[[], LoadedSet]) -> None:
        """Write the newest state, after a write in progress has ended."""
        while self._writing and not self._writing.done():
            await asyncio.wait((self._writing,))
        saved = newest()  # on the event loop, where nothing changes it at the same time
        writing = in_daemon_thread(partial(self._replace, saved), "model memory")
        self._writing = writing
        await asyncio.wait((writing,))  # the write continues if its waiter is cancelled
        self._report(writing.result())

    def _replace(self, saved: LoadedSet) -> str:
        """Write the file; gives the reason if it failed, else "". Blocks."""
        own = replace(saved, boot=self._boot)
        try:
            if why := self._foreign():
                return why
            atomic_file.replace(self._path, loaded_set.dump(own, self._instance))
        except (OSError, ValueError) as error:
            return self._fault(error)
        return ""

    def _foreign(self) -> str:
        """Why the file is not this instance's; empty if it is, or does not exist.

        Raises:
            OSError: it cannot be read.
            ValueError: the path is invalid.
        """
        try:
            if not stat.S_ISREG(self._path.stat().st_mode):
                return f"{self._path}: expected a file, found something else"
        except FileNotFoundError:
            return ""
        with self._path.open("rb") as file:
            why = loaded_set.foreign(file.readline(_LINE), self._instance)
        return f"{self._path}: {why}" if why else ""

    def _fault(self, error: OSError | ValueError) -> str:
        return f"{self._path}: {getattr(error, 'strerror', None) or error}"

    def _report(self, why: str) -> None:
        if why != self._why:
            self._why = why
            self._failed(why)


def _boot() -> str:
    """The id of this boot of the machine; empty if unknown."""
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
