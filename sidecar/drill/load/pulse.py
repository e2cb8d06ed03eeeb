"""Notices for how long the event loop of a load could not run, as on a busy machine.

Acts: asyncio, time.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, takewhile

_BEAT = 0.02  # seconds
_LEAST = 0.005  # seconds; a timer is always a little late
_KEPT = 10_000  # stalls: requests that began before the oldest of so many have long ended


@dataclass(frozen=True, slots=True)
class Stall:
    """A stretch of time, on the monotonic clock, in which the loop did not run."""

    begin: float
    end: float


class Pulse:
    """A timer of the event loop, and when it was late."""

    def __init__(self) -> None:
        self._due = float("inf")
        self._stalls: deque[Stall] = deque(maxlen=_KEPT)

    async def beat(self) -> None:
        """Beat until cancelled."""
        while True:
            self._due = time.monotonic() + _BEAT
            await asyncio.sleep(_BEAT)
            now = time.monotonic()
            if now - self._due > _LEAST:
                self._stalls.append(Stall(self._due, now))

    def stalled(self, since: float) -> float:
        """The seconds since a moment (monotonic) in which the loop did not run."""
        now = time.monotonic()
        # The timer of this stall may come after what asks: it has not ended by then.
        present = [Stall(self._due, now)] if now - self._due > _LEAST else []
        return overlapping(chain(present, reversed(self._stalls)), since)


def overlapping(newest_first: Iterable[Stall], since: float) -> float:
    """The seconds of stalls after a moment.

    It looks at no more stalls than that takes: each request asks, and most end after few of them.
    """
    after = takewhile(lambda each: each.end > since, newest_first)
    return sum(each.end - max(each.begin, since) for each in after)
