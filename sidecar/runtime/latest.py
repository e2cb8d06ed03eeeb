"""A cell with the newest value: one writer, many readers, no queue.

Acts: asyncio.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Generic, TypeVar

from sidecar.runtime.clock import Clock

T = TypeVar("T")


class Latest(Generic[T]):
    """The newest value of something, and a way to wait for the next one.

    A slow reader skips to the newest value; it delays neither the writer nor another reader.
    Setting an equal value is no change. For use on one event loop.
    """

    def __init__(self, initial: T) -> None:
        self._value = initial
        self._version = 0
        self._changed = asyncio.Event()

    @property
    def value(self) -> T:
        """The newest value."""
        return self._value

    @property
    def version(self) -> int:
        """How often the value has changed."""
        return self._version

    def set(self, value: T) -> None:
        """Make `value` the newest one and wake every waiting reader."""
        if value == self._value:
            return
        self._value = value
        self._version += 1
        # A fresh event per change: waiters on the old one wake, later ones wait for the next.
        woken, self._changed = self._changed, asyncio.Event()
        woken.set()

    async def changed(self, since: int) -> tuple[int, T]:
        """Wait until the version is not `since`; returns the newest version and value."""
        while self._version == since:
            await self._changed.wait()
        return self._version, self._value

    async def __aiter__(self) -> AsyncIterator[T]:
        """Yield the current value, then the newest one after each change."""
        version = self._version
        yield self._value
        while True:
            version, value = await self.changed(version)
            yield value


async def first_of(clock: Clock, pause: float | None, *news: Awaitable[object]) -> None:
    """Return when the first of `news` is done, or after `pause` seconds, if given.

    Raises the error of the one that came first, if it failed.
    """
    waits = [asyncio.ensure_future(each) for each in news]
    if pause is not None:
        waits.append(asyncio.ensure_future(clock.sleep(pause)))
    try:
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in done:
            wait.result()
    finally:
        for wait in waits:
            wait.cancel()
