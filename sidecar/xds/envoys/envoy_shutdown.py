"""Having an Envoy finish what it has before it is stopped, by its admin interface.

Envoy itself ends at SIGTERM with all that is in it. Source: Envoy's operations/admin and
arch_overview/operations/draining.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp

from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import Unavailable, words
from sidecar.xds.config.routes import LISTENER

_IN_FLIGHT = f"http.{LISTENER}.downstream_rq_active"
_INTERVAL = 0.2  # seconds between two looks
_TIMEOUT = 5.0  # seconds for one answer


async def finish(
    admin: str, pause: float, timeout: float, clock: Clock, tell: Callable[[str], None]
) -> int:
    """Have the Envoy at `admin` (HOST:PORT) take nothing new, and wait until nothing is left.

    For `pause` seconds it goes on taking connections, while `/ready` says 503 and its clients are
    asked to leave (GOAWAY). Then it closes its listeners, and what it has may last for `timeout`
    seconds. Gives how many requests are left.

    Raises:
        Unavailable: no answer, or not one of Envoy.
    """
    limit = aiohttp.ClientTimeout(total=_TIMEOUT)
    async with aiohttp.ClientSession(f"http://{admin}", timeout=limit) as session:
        try:
            await _ask(session.post("/healthcheck/fail"))
            tell(f"clients are asked to leave; listeners close in {pause:g} s")
            await clock.sleep(pause)
            await _ask(session.post("/drain_listeners"))
            return await _emptied(session, clock, clock.now() + timeout, tell)
        except (aiohttp.ClientError, OSError, ValueError, LookupError) as error:
            raise Unavailable(f"{admin}: {words(error)}") from error


async def _emptied(
    session: aiohttp.ClientSession, clock: Clock, until: float, tell: Callable[[str], None]
) -> int:
    told = None
    while True:
        left = await _in_flight(session)
        if left != told:
            tell(f"listeners are closed; requests in flight: {left}")
            told = left
        if not left or clock.now() >= until:
            return left
        await clock.sleep(_INTERVAL)


async def _in_flight(session: aiohttp.ClientSession) -> int:
    """Without a listener that ever was there is no such number, and no request."""
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
