"""Keeps what is loaded in a file, for a sidecar that is started beside a running Triton.

Nothing that goes wrong here stops a sidecar, and a disk that hangs hinders nothing of it.
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

_LINE = 4096  # bytes: the first line, which tells whose file it is, is shorter
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_LARGEST = 256 * 2**20  # bytes
# Seconds between two writings at most: a load is hidden from our successor if the model was asked
# as much after it as it had been before the last one.
_EVERY = 30.0


class LoadedSetFile:
    """One instance's file; what is somebody else's is neither believed nor replaced.

    Args:
        path: where it is.
        instance: the instance's id.
        clock: tells how long a pause is.
        failed: told why it cannot be read or written, or "" when it was written again, once each
            time that this is another; on the event loop.
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
        """What was remembered, if that is of use; blocks."""
        try:
            self._report(self._foreign())
            if self._why or not self._path.exists() or self._path.stat().st_size > _LARGEST:
                return LoadedSet()
            return loaded_set.restore(self._path.read_bytes(), self._instance, self._boot)
        except (OSError, ValueError) as error:
            self._report(self._fault(error))
            return LoadedSet()

    async def run(self, newest: Callable[[], LoadedSet], *made_of: Latest[Any]) -> None:
        """Write the newest for ever: when a cell that it is made of changes, and now and then."""
        while True:
            versions = [cell.version for cell in made_of]
            await self.write(newest)
            news = [cell.changed(since) for cell, since in zip(made_of, versions, strict=True)]
            await first_of(self._clock, _EVERY, *news)

    async def write(self, newest: Callable[[], LoadedSet]) -> None:
        """Write what is the newest when a writing that is under way has ended."""
        while self._writing and not self._writing.done():
            await asyncio.wait((self._writing,))
        memory = newest()  # here, where nothing of it changes meanwhile
        writing = in_daemon_thread(partial(self._replace, memory), "model memory")
        self._writing = writing
        await asyncio.wait((writing,))  # which goes on if its waiter is cancelled
        self._report(writing.result())

    def _replace(self, memory: LoadedSet) -> str:
        """Why it could not be written; blocks."""
        own = replace(memory, boot=self._boot)
        try:
            if why := self._foreign():
                return why
            atomic_file.replace(self._path, loaded_set.dump(own, self._instance))
        except (OSError, ValueError) as error:
            return self._fault(error)
        return ""

    def _foreign(self) -> str:
        """Why what lies there is not ours; empty if it is, and if nothing does.

        Raises:
            OSError: it cannot be read.
            ValueError: nothing can have this name.
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
    """What tells this start of the machine from others, where it can be told."""
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
