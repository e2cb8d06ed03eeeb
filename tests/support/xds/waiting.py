"""Waiting for an outcome in the tests of the control plane."""

import asyncio
from collections.abc import Callable
from typing import Any

# Longer than anything takes on a busy machine; a hang, never a speed test.
PATIENCE = 60.0


async def eventually(check: Callable[[], Any], what: str) -> Any:
    """Wait until `check` gives something true."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found, pause = check(), 0.02
            if asyncio.iscoroutine(found):
                found, pause = await found, 0.05  # it asks Envoy, which has other work
            if found:
                return found
            await asyncio.sleep(pause)
    raise AssertionError(what)
