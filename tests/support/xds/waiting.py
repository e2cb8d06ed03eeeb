"""Waits for an outcome, in the tests of the control plane."""

import asyncio
from collections.abc import Callable
from typing import Any

# Seconds: longer than any step on a busy machine, so that a timeout means a hang.
PATIENCE = 60.0


async def eventually(check: Callable[[], Any], what: str) -> Any:
    """Wait until `check` returns something true, and return it."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found, pause = check(), 0.02
            if asyncio.iscoroutine(found):
                found, pause = await found, 0.05  # it reads from Envoy, which needs the CPU
            if found:
                return found
            await asyncio.sleep(pause)
    raise AssertionError(what)
