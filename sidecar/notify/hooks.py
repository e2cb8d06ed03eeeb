"""The loop that runs a hook's command, for one change after the other.

Acts: through what it imports or is given.
"""

from collections.abc import Sequence

from sidecar.events import Hook, HookRan
from sidecar.notify.change_queue import ChangeQueue
from sidecar.notify.documents import Change, document, encode
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import SidecarError
from sidecar.runtime.subprocesses import run


class CommandHook:
    """Runs a command for each change. `settled` is true while there is none."""

    def __init__(
        self, name: str, argv: Sequence[str], timeout: float, clock: Clock, emit: Hook
    ) -> None:
        self.name = name
        self._argv = argv
        self._timeout = timeout
        self._clock = clock
        self._emit = emit
        self._queued = ChangeQueue(name, emit)
        self._running = False

    @property
    def settled(self) -> bool:
        """Whether nothing is running or waiting."""
        return not self._running and not self._queued.waiting

    def put(self, change: Change) -> None:
        """Queue the command for a change."""
        self._queued.put(change)

    async def run(self) -> None:
        """Run the command for queued changes until cancelled, which kills a running command."""
        while True:
            await self._queued.news()
            if change := self._queued.take():
                self._running = True
                try:
                    await self._perform(change)
                finally:
                    self._running = False

    async def _perform(self, change: Change) -> None:
        began, error = self._clock.now(), ""
        try:
            await run(self._argv, self._timeout, encode(document(change)))
        except SidecarError as failure:
            error = str(failure)
        self._emit(HookRan(self.name, self._clock.now() - began, error))
