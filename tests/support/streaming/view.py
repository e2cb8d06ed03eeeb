"""A materialized view: the newest answer to one query on a service's health, kept up to date.

It answers as Consul's package submatview does: each failed attempt to subscribe to the servers ends
the waiting queries, a view that never had an answer shows an empty list, and attempts back off.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace

_FIRST, _LONGEST = 0.2, 60.0
# Seconds between the calls of one attempt to reach the servers again (agent/grpc-internal).
_CALLS = (1.0, 2.0, 4.0, 5.0)


@dataclass(frozen=True, slots=True)
class Shown:
    """The content of a view; its index is 0 until the servers have answered."""

    index: int = 0
    body: bytes = b"[]"


@dataclass(frozen=True, slots=True)
class Refused:
    """Why an attempt to reach the servers failed, as an HTTP status and a text."""

    status: int
    text: str


Ask = Callable[[int], Awaitable[Shown | Refused]]


class View:
    """A view that `keep` updates by calling `ask`, a blocking query from an index on."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._shown = Shown()
        self._refused: Refused | None = None
        self._woken = asyncio.Event()

    async def keep(self) -> None:
        """Follow the servers' answers."""
        index = failures = 0
        while True:
            outcome = await self._attempt(index)
            if isinstance(outcome, Shown):
                index = outcome.index if outcome.index >= index else 0
                failures = 0
                # A blocking query, unlike a stream, may return what is unchanged at a new index.
                new = outcome.body != self._shown.body or outcome.index < self._shown.index
                if new or not self._shown.index:
                    self._shown = outcome
                    self._wake_waiters(None)
            else:
                index = 0
                failures += 1
                self._wake_waiters(outcome)
                await asyncio.sleep(pause(failures, random.random()))

    async def query(self, above: int, wait: float) -> Shown | Refused:
        """The content, once its index is greater than `above` or after `wait` seconds."""
        shown = self._shown
        if shown.index > above:
            return shown
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                while True:
                    await self._woken.wait()
                    if self._refused is not None:
                        return self._refused
                    shown = self._shown
                    if shown.index > above:
                        return shown
        return replace(shown, body=self._shown.body)

    async def _attempt(self, index: int) -> Shown | Refused:
        """Query the servers; an interruption is reported at once, only a first query is retried."""
        outcome = await self._ask(index)
        for seconds in () if index else _CALLS:
            if isinstance(outcome, Shown):
                break
            await asyncio.sleep(seconds)
            outcome = await self._ask(index)
        return outcome

    def _wake_waiters(self, refused: Refused | None) -> None:
        """Wake all waiting queries; with `refused` they fail."""
        self._refused = refused
        waiters, self._woken = self._woken, asyncio.Event()
        waiters.set()


def pause(failures: int, chance: float) -> float:
    """Seconds until the next attempt after `failures` failed ones; `chance` is from 0 to 1.

    Up to one or two minutes, which a view may need to notice that the servers are back.
    """
    if failures < 2:
        return 0.0
    return float(min(_LONGEST, _FIRST * 2.0 ** (failures - 2)) * (1 + chance))
