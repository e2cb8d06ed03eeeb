"""Drains an Envoy through its admin interface before it is stopped.

On SIGTERM Envoy itself exits at once, with everything in flight. Sources: Envoy's operations/admin
and arch_overview/operations/draining.

Acts: aiohttp, asyncio.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp

from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import Unavailable, words
from sidecar.xds.config.routes import LISTENER

_IN_FLIGHT = f"http.{LISTENER}.downstream_rq_active"
_INTERVAL = 0.2  # seconds between two reads
_TIMEOUT = 5.0  # seconds for one answer


async def finish(
    admin: str, pause: float, timeout: float, clock: Clock, report: Callable[[str], None]
) -> int:
    """Make the Envoy at `admin` (HOST:PORT) stop accepting, and wait until nothing is in flight.

    For `pause` seconds it still accepts connections, while `/ready` answers 503 and clients are
    asked to leave (GOAWAY). Then it closes its listeners, and requests in flight get `timeout`
    seconds. Returns how many requests are left.

    Raises:
        Unavailable: no answer, or not one of Envoy.
    """
    limit = aiohttp.ClientTimeout(total=_TIMEOUT)
    async with aiohttp.ClientSession(f"http://{admin}", timeout=limit) as session:
        try:
            await _ask(session.post("/healthcheck/fail"))
            report(f"clients are asked to leave; listeners close in {pause:g} s")
            await clock.sleep(pause)
            await _ask(session.post("/drain_listeners"))
            return await _emptied(session, clock, clock.now() + timeout, report)
        except (aiohttp.ClientError, OSError, ValueError, LookupError) as error:
            raise Unavailable(f"{admin}: {words(error)}") from error


async def _emptied(
    session: aiohttp.ClientSession, clock: Clock, until: float, report: Callable[[str], None]
) -> int:
    reported = None
    while True:
        left = await _in_flight(session)
        if left != reported:
            report(f"listeners are closed; requests in flight: {left}")
            reported = left
        if not left or clock.now() >= until:
            return left
        await clock.sleep(_INTERVAL)


async def _in_flight(session: aiohttp.ClientSession) -> int:
    """An Envoy that never had a listener has no such statistic, and no request."""
    query = {"format": "json", "filter": f"^{_IN_FLIGHT}$".replace(".", r"\.")}
    page: Any = await _ask(session.get("/stats", params=query))
    found = [each["value"] for each in page["stats"] if each.get("name") == _IN_FLIGHT]
    return sum(map(int, found))


async def _ask(request: Any) -> Any:
    async with asyncio.timeout(_TIMEOUT), request as answer:
        if answer.status != 200:
            raise ValueError(f"{answer.status} {(await answer.read())[:80]!r}")
        if answer.content_type == "application/json":
            return await answer.json()
        return await answer.text()
