"""The queue of changes for a delivery loop; adding one never blocks.

Acts: asyncio.
"""

import asyncio

from sidecar.events import Hook, NotificationDropped
from sidecar.notify import backlog
from sidecar.notify.documents import Change, short


class ChangeQueue:
    """The changes waiting for one hook or target. Use it from one event loop only."""

    def __init__(self, name: str, emit: Hook) -> None:
        self._name = name
        self._emit = emit
        self._news = asyncio.Event()
        self.waiting: tuple[Change, ...] = ()

    def put(self, change: Change) -> None:
        """Add a change; if the queue is full, one that is superseded is dropped."""
        self.waiting, dropped = backlog.put(self.waiting, change)
        self._news.set()
        if dropped:
            self.drop(dropped, "too many notifications are queued")

    def take(self) -> Change | None:
        """Remove and return the oldest change, if there is one."""
        if not self.waiting:
            return None
        change, *rest = self.waiting
        self.waiting = tuple(rest)
        return change

    async def news(self) -> None:
        """Wait until the queue is not empty."""
        while not self.waiting:
            self._news.clear()
            await self._news.wait()

    def drop(self, change: Change, why: str) -> None:
        """Report that a change is not delivered."""
        self._emit(NotificationDropped(self._name, short(change), why))
