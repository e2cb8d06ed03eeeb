"""A materialized view: the newest answer to one query on a service's health, kept up to date.

It answers as Consul's package submatview does: each failed attempt to subscribe to the servers ends
the waiting queries, a view that never had an answer shows an empty list, and attempts become rarer.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace

_FIRST, _LONGEST = 0.2, 60.0
# Seconds between the calls that are one attempt to hear of the servers again (agent/grpc-internal).
_CALLS = (1.0, 2.0, 4.0, 5.0)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a view shows; its index is 0 until it has heard of the servers."""

    index: int = 0
    body: bytes = b"[]"


@dataclass(frozen=True, slots=True)
class Refused:
    """Why an attempt to hear of the servers failed, as a status of HTTP and a text."""

    status: int
    text: str


Ask = Callable[[int], Awaitable[Shown | Refused]]


class View:
    """`ask` is a blocking query from an index on; `keep` repeats it forever."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._shown = Shown()
        self._refused: Refused | None = None
        self._told = asyncio.Event()

    async def keep(self) -> None:
        """Follow what the servers say."""
        index = failures = 0
        while True:
            heard = await self._attempt(index)
            if isinstance(heard, Shown):
                index = heard.index if heard.index >= index else 0
                failures = 0
                # A blocking query also wakes for nothing, with a higher index; a stream does not.
                new = heard.body != self._shown.body or heard.index < self._shown.index
                if new or not self._shown.index:
                    self._shown = heard
                    self._tell(None)
            else:
                index = 0
                failures += 1
                self._tell(heard)
                await asyncio.sleep(pause(failures, random.random()))

    async def query(self, above: int, wait: float) -> Shown | Refused:
        """What is shown as soon as its index is above that one, or after so many seconds."""
        shown = self._shown
        if shown.index > above:
            return shown
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                while True:
                    await self._told.wait()
                    if self._refused is not None:
                        return self._refused
                    shown = self._shown
                    if shown.index > above:
                        return shown
        return replace(shown, body=self._shown.body)

    async def _attempt(self, index: int) -> Shown | Refused:
        """Ask; what was interrupted is told at once, and only a beginning is tried again."""
        heard = await self._ask(index)
        for seconds in () if index else _CALLS:
            if isinstance(heard, Shown):
                break
            await asyncio.sleep(seconds)
            heard = await self._ask(index)
        return heard

    def _tell(self, refused: Refused | None) -> None:
        """Wake all waiters, once."""
        self._refused = refused
        told, self._told = self._told, asyncio.Event()
        told.set()


def pause(failures: int, chance: float) -> float:
    """Seconds until the next attempt after so many failed ones; `chance` is from 0 to 1.

    From a minute to two, in the end: that long the servers may be back before a view hears of them.
    """
    if failures < 2:
        return 0.0
    return float(min(_LONGEST, _FIRST * 2.0 ** (failures - 2)) * (1 + chance))
