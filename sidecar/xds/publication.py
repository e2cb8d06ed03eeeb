"""Builds the newest snapshot from the newest catalog, and dates the placements in it.

Acts: asyncio.
"""

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

# Seconds after a change before placements are dated: pushing to Envoys comes first.
_DATE_DELAY = 0.05
_SUSPECTS_DELAY = 0.02  # seconds over which new suspects are batched


@dataclass(frozen=True, slots=True)
class DatedPlacement:
    """A placement, and since when (monotonic seconds) it has been the same."""

    placement: Placement
    at: float


class Publication:
    """Builds a snapshot for each catalog; `snapshot` is None before the first."""

    def __init__(
        self,
        catalog: Latest[Catalog | None],
        edge: Edge,
        clock: Clock,
        received_at: Callable[[], float] | None = None,
    ) -> None:
        """`received_at` returns when (monotonic seconds) Consul sent the newest catalog's data."""
        self.snapshot: Latest[Snapshot | None] = Latest(None)
        # The catalog from which the newest snapshot was built, and the former clusters in it.
        self.built: Catalog | None = None
        self.lingering: Latest[Lingering] = Latest({})
        # How often the set of clusters that routes lead to has changed.
        self.reroutings = 0
        self._catalog = catalog
        self.edge = edge
        # Requests that Envoys hold back.
        self.suspects: Latest[Watchlist] = Latest(frozenset())
        self.clock = clock
        # When (monotonic seconds) the data came from which the newest snapshot was built.
        self.changed_at = clock.now()
        self._received_at = received_at or clock.now
        self._placements: Mapping[PlacementKey, DatedPlacement] = {}

    async def run(self) -> None:
        """Publish until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._build())
            tasks.create_task(self._date_placements())
            tasks.create_task(self._publish_suspects())

    def placed_since(self, cluster: str, instance: str) -> float | None:
        """Since when (monotonic seconds) an instance has had its placement; None if unknown."""
        found = self._placements.get((cluster, instance))
        return found.at if found else None

    def drop_former_cluster(self, cluster: str) -> None:
        """Remove a former cluster: nothing is in flight on it any more."""
        kept = {name: each for name, each in self.lingering.value.items() if name != cluster}
        self.lingering.set(kept)
        if self.built is not None:
            self._publish(self.built, self.clock.now())

    async def _build(self) -> None:
        async for catalog in self._catalog:
            if catalog is None:
                continue
            received_at = self._received_at()
            guarded = self.edge.quarantine > 0
            former = linger(self.lingering.value, self.built, catalog, quarantine=guarded)
            self.lingering.set(former)
            self._publish(catalog, received_at)

    def _publish(self, catalog: Catalog, received_at: float) -> None:
        snapshot = build(catalog, self.edge, self.lingering.value, self.suspects.value)
        self.built = catalog
        before = self.snapshot.value
        if snapshot != before:
            self.changed_at = received_at
            self.reroutings += before is None or snapshot.routed != before.routed
            self.snapshot.set(snapshot)

    async def _publish_suspects(self) -> None:
        async for _ in self.suspects:
            await self.clock.sleep(_SUSPECTS_DELAY)
            if self.built is not None:
                self._publish(self.built, self.clock.now())

    async def _date_placements(self) -> None:
        async for _ in self.snapshot:
            await self.clock.sleep(_DATE_DELAY)
            if (snapshot := self.snapshot.value) is not None:
                now = placements(snapshot.assignments)
                self._placements = date_placements(self._placements, now, self.changed_at)


def date_placements(
    before: Mapping[PlacementKey, DatedPlacement], now: Mapping[PlacementKey, Placement], at: float
) -> dict[PlacementKey, DatedPlacement]:
    """Date each placement after a change at the time `at`; an unchanged one keeps its date."""
    return {
        key: known
        if (known := before.get(key)) is not None and known.placement == placement
        else DatedPlacement(placement, at)
        for key, placement in now.items()
    }
