"""Waiting for something that is seen only by looking again and again.

Acts: asyncio.
"""

import asyncio
import inspect
from collections.abc import Callable

from sidecar.runtime.errors import Unavailable

PATIENCE = 180.0  # seconds: far above what a busy machine needs
_PAUSE = 0.05


async def until(
    condition: Callable[[], object],
    what: str,
    *,
    patience: float = PATIENCE,
    pause: float = _PAUSE,
) -> None:
    """Wait for a condition, which may be a coroutine function, to give something true.

    It is evaluated again `pause` seconds after each time.

    Raises:
        Unavailable: it was not within `patience` seconds; the message says `what`.
    """
    try:
        async with asyncio.timeout(patience):
            while True:
                found = condition()
                if inspect.isawaitable(found):
                    found = await found
                if found:
                    return
                await asyncio.sleep(pause)
    except TimeoutError:
        raise Unavailable(f"not seen within {patience:g} s: {what}") from None
