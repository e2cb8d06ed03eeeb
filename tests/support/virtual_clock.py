"""A virtual clock that tests advance, so that no test of a loop waits."""

import asyncio
import heapq
import itertools


class VirtualClock:
    """A `Clock` whose time passes only in `advance`, which wakes each sleeper in order."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return 1_700_000_000.0 + self._now

    async def sleep(self, seconds: float) -> None:
        event = asyncio.Event()
        heapq.heappush(self._sleepers, (self._now + max(0, seconds), next(self._order), event))
        await event.wait()

    def jitter(self, seconds: float, fraction: float) -> float:
        return seconds

    async def advance(self, seconds: float) -> None:
        until = self._now + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= until:
            at, _, event = heapq.heappop(self._sleepers)
            self._now = max(self._now, at)
            event.set()
            await settle()
        self._now = until
        await settle()


async def settle() -> None:
    """Run all tasks until each of them waits; gives up on one that never does."""
    ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
    for _ in range(50):
        await asyncio.sleep(0)
        if not ready:  # no other task is ready
            return
