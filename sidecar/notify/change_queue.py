"""The changes that wait for a loop; adding one never waits."""

import asyncio

from sidecar.events import Hook, NotificationDropped
from sidecar.notify import backlog
from sidecar.notify.documents import Change, short


class ChangeQueue:
    """What waits to be told to one hook or target. To be used from one event loop."""

    def __init__(self, name: str, emit: Hook) -> None:
        self._name = name
        self._emit = emit
        self._news = asyncio.Event()
        self.waiting: tuple[Change, ...] = ()

    def put(self, change: Change) -> None:
        """Add a change; what it makes superfluous gives way if there are too many."""
        self.waiting, dropped = backlog.put(self.waiting, change)
        self._news.set()
        if dropped:
            self.drop(dropped, "too many notifications are queued")

    def take(self) -> Change | None:
        """The change that waits longest."""
        if not self.waiting:
            return None
        change, *rest = self.waiting
        self.waiting = tuple(rest)
        return change

    async def news(self) -> None:
        """Wait until something waits."""
        while not self.waiting:
            self._news.clear()
            await self._news.wait()

    def drop(self, change: Change, why: str) -> None:
        """Say that a change will not be told."""
        self._emit(NotificationDropped(self._name, short(change), why))
