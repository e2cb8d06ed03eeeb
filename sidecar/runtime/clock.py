"""The clock. Loops take it as an argument, so that tests can use a virtual one.

Acts: asyncio, random, time.
"""

import asyncio
import random
import time
from typing import Protocol


class Clock(Protocol):
    """Time as the loops see it; all figures are seconds."""

    def now(self) -> float:
        """Monotonic time, unaffected by changes of the wall clock."""

    def wall(self) -> float:
        """Unix seconds, as people and other machines tell the time. It may jump."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    def jitter(self, seconds: float, fraction: float) -> float:
        """`seconds`, changed at random by up to `fraction` of it in either direction."""


class SystemClock:
    """The machine's clock.

    `now` keeps counting while the machine is suspended, if the platform supports it
    (CLOCK_BOOTTIME), because leases run out then too.
    """

    _clock_id = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def now(self) -> float:
        """Monotonic seconds since boot."""
        return time.clock_gettime(self._clock_id)

    def wall(self) -> float:
        """Unix seconds."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Wait on the running event loop."""
        await asyncio.sleep(max(0.0, seconds))

    def jitter(self, seconds: float, fraction: float) -> float:
        """`seconds`, changed at random by up to `fraction` of it in either direction."""
        return seconds * (1 + random.uniform(-fraction, fraction))  # noqa: S311  # spreads load
