"""Two faults that meet.

Acts: asyncio.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TypeVar

from sidecar.drill.scenario import Injection
from sidecar.runtime.clock import Clock, SystemClock

StageT = TypeVar("StageT")
_CLOCK = SystemClock()


def both(
    first: Injection[StageT], second: Injection[StageT], *, after: float, clock: Clock = _CLOCK
) -> Injection[StageT]:
    """Both faults, the second so many seconds after the first began, and perhaps in its middle.

    Both last until the end, and are removed in the reverse order of their beginning.
    """

    @asynccontextmanager
    async def meeting(stage: StageT, victim: str) -> AsyncIterator[None]:
        async with AsyncExitStack() as faults:
            beginning = asyncio.ensure_future(faults.enter_async_context(first(stage, victim)))
            try:
                await clock.sleep(after)
                await faults.enter_async_context(second(stage, victim))
                await beginning
            except BaseException:
                await _ended(beginning)
                raise
            yield

    return meeting


async def _ended(beginning: "asyncio.Future[float | None]") -> None:
    """Cancel what is still beginning, so that it removes what it has caused."""
    beginning.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.wait((beginning,))
    if not beginning.cancelled():
        beginning.exception()  # the other error is the one that is reported
