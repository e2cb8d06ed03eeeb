"""From the newest catalog to the newest snapshot, and how long Envoys take to follow."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sidecar.runtime.clock import Clock
from sidecar.runtime.latest import Latest
from sidecar.xds.catalog.catalog import Catalog
from sidecar.xds.config.edge import Edge
from sidecar.xds.config.endpoints import Placement, PlacementKey, placements
from sidecar.xds.config.filters.quarantine_filter import Watchlist
from sidecar.xds.config.lingering import Lingering, linger
from sidecar.xds.config.snapshot import Snapshot, build

# Seconds for which a change is left alone before it is written down since when each instance has
# its place: the Envoys come first.
_REMEMBER = 0.05
_TOGETHER = 0.02  # seconds in which many may become suspects at once


@dataclass(frozen=True, slots=True)
class DatedPlacement:
    """A placement, and since when (monotonic seconds) it is as it is."""

    placement: Placement
    at: float


class Publication:
    """Builds a snapshot for each catalog; `snapshot` is None until there was one."""

    def __init__(
        self,
        catalog: Latest[Catalog | None],
        edge: Edge,
        clock: Clock,
        heard_at: Callable[[], float] | None = None,
    ) -> None:
        """`heard_at` says when (monotonic seconds) the newest catalog's news came from Consul."""
        self.snapshot: Latest[Snapshot | None] = Latest(None)
        # The catalog of which the newest snapshot was built, and the former clusters in it.
        self.built: Catalog | None = None
        self.lingering: Latest[Lingering] = Latest({})
        # How often other clusters became those to which routes lead.
        self.reroutings = 0
        self._catalog = catalog
        self.edge = edge
        # Requests that Envoys are to look out for.
        self.suspects: Latest[Watchlist] = Latest(frozenset())
        self.clock = clock
        # When (monotonic seconds) the news came that the newest snapshot was made of.
        self.changed_at = clock.now()
        self._heard_at = heard_at or clock.now
        self._placements: Mapping[PlacementKey, DatedPlacement] = {}

    async def run(self) -> None:
        """Publish for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._build())
            tasks.create_task(self._remember())
            tasks.create_task(self._look_out())

    def placed_since(self, cluster: str, instance: str) -> float | None:
        """Since when (monotonic seconds) an instance has its place; None if that is not known."""
        found = self._placements.get((cluster, instance))
        return found.at if found else None

    def let_go(self, cluster: str) -> None:
        """Nothing is in flight on a former cluster any more."""
        kept = {name: each for name, each in self.lingering.value.items() if name != cluster}
        self.lingering.set(kept)
        if self.built is not None:
            self._publish(self.built, self.clock.now())

    async def _build(self) -> None:
        async for catalog in self._catalog:
            if catalog is None:
                continue
            heard_at = self._heard_at()
            guarded = self.edge.quarantine > 0
            former = linger(self.lingering.value, self.built, catalog, quarantine=guarded)
            self.lingering.set(former)
            self._publish(catalog, heard_at)

    def _publish(self, catalog: Catalog, heard_at: float) -> None:
        snapshot = build(catalog, self.edge, self.lingering.value, self.suspects.value)
        self.built = catalog
        before = self.snapshot.value
        if snapshot != before:
            self.changed_at = heard_at
            self.reroutings += before is None or snapshot.routed != before.routed
            self.snapshot.set(snapshot)

    async def _look_out(self) -> None:
        async for _ in self.suspects:
            await self.clock.sleep(_TOGETHER)
            if self.built is not None:
                self._publish(self.built, self.clock.now())

    async def _remember(self) -> None:
        async for _ in self.snapshot:
            await self.clock.sleep(_REMEMBER)
            if (snapshot := self.snapshot.value) is not None:
                now = placements(snapshot.assignments)
                self._placements = date_placements(self._placements, now, self.changed_at)


def date_placements(
    before: Mapping[PlacementKey, DatedPlacement], now: Mapping[PlacementKey, Placement], at: float
) -> dict[PlacementKey, DatedPlacement]:
    """Since when each placement is as it is, after a change at the time `at`."""
    return {
        key: known
        if (known := before.get(key)) is not None and known.placement == placement
        else DatedPlacement(placement, at)
        for key, placement in now.items()
    }
