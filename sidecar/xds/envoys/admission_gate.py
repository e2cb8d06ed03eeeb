"""Rate-limited admission of new ADS streams, so that a crowd of Envoys starves no connected one.

Acts: asyncio.
"""

import asyncio
from collections.abc import Callable

from sidecar.runtime.clock import Clock
from sidecar.runtime.token_bucket import TokenBucket

# New streams per second, and at once. A new stream costs a few milliseconds until it has
# everything. A hundred Envoys are back within a second, and connected ones wait for at most a
# burst.
_RATE, _BURST = 100.0, 10.0
# Turns of the event loop that a new stream yields to those waiting for an update.
_TURNS = 20


class AdmissionGate:
    """Admits streams one after the other, no faster than a token bucket allows.

    A stream that ends while it waits uses no token.
    """

    def __init__(self, clock: Clock, behind: Callable[[], bool]) -> None:
        """`behind` returns whether a connected stream has not been sent the newest snapshot."""
        self.waiting = 0
        self._clock = clock
        self._behind = behind
        self._turn = asyncio.Lock()  # first come, first served
        self._bucket = TokenBucket(_RATE, _BURST, level=_BURST, at=clock.now())

    async def enter(self) -> None:
        """Return when the stream may begin."""
        self.waiting += 1
        try:
            async with self._turn:
                while pause := self._bucket.pause(self._clock.now()):
                    await self._clock.sleep(pause)
                for _ in range(_TURNS):
                    if not self._behind():
                        break
                    await asyncio.sleep(0)
                self._bucket = self._bucket.take(self._clock.now())
        finally:
            self.waiting -= 1
