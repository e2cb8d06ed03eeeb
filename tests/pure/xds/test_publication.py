"""Since when instances have had their placements."""

import asyncio
from contextlib import suppress
from dataclasses import replace

from sidecar.runtime.latest import Latest
from sidecar.xds.catalog.catalog import Catalog, Instance, Leader, ServiceCatalog
from sidecar.xds.config.edge import Edge
from sidecar.xds.config.endpoints import Placement, assign, placements
from sidecar.xds.publication import DatedPlacement, Publication, date_placements
from tests.support.virtual_clock import VirtualClock

A = Instance("a", "10.0.0.1", 8001, 9001)
B = Instance("b", "10.0.0.2", 8001, 9001)


async def test_a_placement_counts_from_when_the_change_arrived() -> None:
    clock = VirtualClock()
    catalog: Latest[Catalog | None] = Latest(None)
    arrived = 0.0
    publication = Publication(catalog, Edge(), clock, lambda: arrived)
    task = asyncio.create_task(publication.run())
    service = ServiceCatalog("triton", (A, B), Leader("a", 1))
    for arrived, leader in ((1.0, "a"), (2.0, "b")):  # read by the lambda
        catalog.set(Catalog((replace(service, leader=Leader(leader, 1)),)))
        await clock.advance(1.0)
        assert publication.changed_at == arrived
        assert publication.placed_since("triton", "a") == arrived
    assert publication.placed_since("triton", "other") is None
    catalog.set(Catalog((replace(service, instances=(A, B), leader=Leader("b", 3)),)))
    await clock.advance(1.0)
    assert publication.placed_since("triton", "a") == 2.0  # the epoch changes nothing for Envoy
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def test_an_unchanged_placement_keeps_its_time() -> None:
    service = ServiceCatalog("triton", (A, B), Leader("a", 3))
    first = date_placements({}, placements(assign(service)), 1.0)
    assert first["triton", "a"] == DatedPlacement(Placement(0, 1), 1.0)
    swapped = placements(assign(replace(service, instances=(replace(A, weight=5), B))))
    second = date_placements(first, swapped, 2.0)
    assert second["triton", "a"] == DatedPlacement(Placement(0, 5), 2.0)
    assert second["triton", "b"] == DatedPlacement(Placement(1, 1), 1.0)
    assert date_placements(second, {}, 3.0) == {}
