"""Reads the counters of this control plane's Envoys through their admin interfaces.

Acts: aiohttp, asyncio.
"""

import asyncio
from collections.abc import Iterable, Mapping

import aiohttp
import structlog

from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import Unavailable, words
from sidecar.runtime.latest import Latest, first_of
from sidecar.traffic.guard import Observation, merged
from sidecar.xds.envoys.counters import Counts, Ring, Tally, read_counts, stats_filter

_INTERVAL = 1.0  # seconds between two reads
_TIMEOUT = 2.0  # seconds for one read
_KEPT = 900.0  # seconds that queries can look back


class EnvoyAdmin:
    """One Envoy's admin interface."""

    def __init__(self, address: str, services: tuple[str, ...]) -> None:
        self.address = address
        self._services = services

    async def read(self, session: aiohttp.ClientSession) -> Mapping[str, Tally]:
        """Its counters.

        Raises:
            Unavailable: no answer, or not one of Envoy.
        """
        # Detailed bins are a tenth wide; the limits of the other formats are too coarse.
        query = {
            "format": "json",
            "histogram_buckets": "detailed",
            "filter": stats_filter(self._services),
        }
        try:
            async with session.get(f"http://{self.address}/stats", params=query) as answer:
                page = await answer.read()
                if answer.status != 200:
                    raise Unavailable(f"{self.address}: {answer.status} {page[:80]!r}")
            return read_counts(page, self._services)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unavailable(f"{self.address}: {words(error)}") from error


class EnvoyCounters:
    """The counts of all Envoys of this control plane over the last minutes."""

    def __init__(
        self,
        addresses: Iterable[str],
        services: tuple[str, ...],
        clock: Clock,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._rings = {EnvoyAdmin(address, services): Ring(_KEPT) for address in addresses}
        self._clock = clock
        self._log = log
        # How often all of them have been read.
        self.looks: Latest[int] = Latest(0)
        self._failing: dict[str, str] = {}

    @property
    def blind(self) -> bool:
        """Whether there is no Envoy to read."""
        return not self._rings

    async def run(self) -> None:
        """Read all Envoys periodically; never returns."""
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                looks = (self._look(admin, ring, session) for admin, ring in self._rings.items())
                await asyncio.gather(*looks)
                self.looks.set(self.looks.value + 1)
                await self._clock.sleep(_INTERVAL)

    async def failures(self, service: str, seconds: float) -> Counts | None:
        """The requests that ended within the last `seconds`; None unless every Envoy counted them.

        Waits for the next read, so that nothing up to now is missing.
        """
        if not self._rings:
            return None
        now = self._clock.now()
        await first_of(self._clock, _INTERVAL + _TIMEOUT, self._looked(now))
        total = Counts()
        for ring in self._rings.values():
            found = ring.between(service, now - max(0.0, seconds), now)
            if found is None:
                return None
            total = total.plus(found)
        return total

    def released(self, service: str, since: float, window: float) -> Observation:
        """The outcome of the requests to a release; see `Ring.released`.

        Covers the Envoys that answer: the guard does not wait for the others.
        """
        return merged(ring.released(service, since, window) for ring in self._rings.values())

    async def _looked(self, at: float) -> None:
        """Wait until every Envoy has been read since."""
        while any(ring.newest < at for ring in self._rings.values()):
            await self.looks.changed(self.looks.version)

    async def _look(self, admin: EnvoyAdmin, ring: Ring, session: aiohttp.ClientSession) -> None:
        at = self._clock.now()
        try:
            ring.add(at, await admin.read(session))
        except Unavailable as error:
            if self._failing.get(admin.address) != str(error):
                self._log.warning("envoy_stats_unavailable", envoy=admin.address, why=str(error))
            self._failing[admin.address] = str(error)
            return
        if self._failing.pop(admin.address, None):
            self._log.info("envoy_stats_available", envoy=admin.address)
