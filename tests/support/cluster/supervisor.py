"""Restarts the parts of a cluster, as a host's systemd would."""

import asyncio
import os
import signal
from collections.abc import Iterable
from contextlib import suppress

from sidecar.local.planning.plan import Part
from sidecar.local.processes.process import Process

_RESTART = 1.0  # seconds that a dead part stays away
_ENDED = (0, -signal.SIGTERM, -signal.SIGKILL)  # what a part ends with that has been ended


class Keeper:
    """One part through its lives: one that dies is started again, unless it is to stay away.

    `crashes` counts the lives that nobody has ended: real servers have faults of their own.
    """

    def __init__(self, part: Part) -> None:
        self.part = part
        self.lives = 0
        self.crashes = 0
        self._process: Process | None = None
        self._wanted = asyncio.Event()
        self._wanted.set()

    async def run(self) -> None:
        """Keep it until cancelled; then it is dead."""
        while True:
            await self._wanted.wait()
            self._process = Process(self.part)
            self.lives += 1
            try:
                self.crashes += await self._process.wait() not in _ENDED
            except asyncio.CancelledError:
                await self._end(self._process)
                raise
            self._process = None
            await asyncio.sleep(_RESTART)

    @property
    def pid(self) -> int | None:
        """The process, and the id of its group; None while it is dead."""
        return self._process.pid if self._process else None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process itself; nothing happens while it is dead."""
        if self._process:
            self._process.signal(number)

    def send_to_all(self, number: signal.Signals) -> None:
        """Send a signal to the process and all that it started."""
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def keep_away(self) -> None:
        """Once it has died, do not start it until `let_back`."""
        self._wanted.clear()

    def let_back(self) -> None:
        """Start it again when it is dead."""
        self._wanted.set()

    async def _end(self, process: Process) -> None:
        process.kill()
        with suppress(asyncio.CancelledError):
            await process.wait()


async def keep(keepers: Iterable[Keeper]) -> None:
    """Run keepers until cancelled, or until one of them breaks."""
    async with asyncio.TaskGroup() as tasks:
        for keeper in keepers:
            tasks.create_task(keeper.run(), name=keeper.part.name)
