"""Which Envoys count as connected while streams come and go, on a manual clock."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
from envoy.service.discovery.v3 import discovery_pb2

from sidecar.runtime.latest import Latest
from sidecar.xds.ads.ads_stream import DeltaStream
from sidecar.xds.catalog.catalog import Catalog, Instance, ServiceCatalog
from sidecar.xds.config.edge import Edge
from sidecar.xds.config.snapshot import ENDPOINT, build
from sidecar.xds.envoys.drain_status import DrainStatus
from sidecar.xds.envoys.envoy_streams import ABSENCE, PACE, Envoys, EnvoyStream
from sidecar.xds.envoys.load_report import LoadReport
from sidecar.xds.publication import Publication
from tests.support.virtual_clock import VirtualClock, settle

GONE = Instance("a", "10.0.0.1", 8001, 9001, draining=True)
CATALOG = Catalog((ServiceCatalog("triton", (GONE,)),))
IDLE = DrainStatus()
UNKNOWN = DrainStatus(1, 0, 0, 0)
DONE = DrainStatus(1, 1, 1, 0)


class Scene:
    """A control plane for which `a` drains, and its newest status."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        edge = Edge()
        self.publication = Publication(Latest(None), edge, self.clock)
        self.publication.snapshot.set(build(CATALOG, edge))
        self.envoys = Envoys(self.clock)
        self.status = IDLE
        self.nodes: tuple[str, ...] = ()

    async def follow(self) -> None:
        async for status in self.envoys.watch_drain(self.publication, "triton", "a"):
            self.status = replace(status, nodes=())
            self.nodes = status.nodes

    def connect(self, node: str) -> EnvoyStream:
        """An Envoy that has been sent the drain, and has acknowledged it."""
        stream = EnvoyStream(DeltaStream(), since=self.clock.now())
        self.envoys.add(stream)
        self.envoys.identify(stream, node)
        ask = discovery_pb2.DeltaDiscoveryRequest(
            type_url=ENDPOINT, resource_names_subscribe=["triton"]
        )
        stream.ads.receive(ask)
        assert self.publication.snapshot.value is not None
        [reply] = stream.ads.offers(self.publication.snapshot.value)
        stream.ads.receive(
            discovery_pb2.DeltaDiscoveryRequest(type_url=ENDPOINT, response_nonce=reply.nonce)
        )
        self.envoys.changed()
        return stream

    async def report(self, node: str) -> None:
        """It has nothing in flight, some time after its acknowledgement."""
        await self.clock.advance(1.0)
        self.envoys.report(node, LoadReport(self.clock.now(), {}, frozenset({"triton"})))
        await self.look()

    async def look(self) -> None:
        """Let the watcher check."""
        await self.clock.advance(PACE)


@asynccontextmanager
async def running(age: float = ABSENCE) -> AsyncIterator[Scene]:
    """A control plane that has run for a while."""
    scene = Scene()
    task = asyncio.create_task(scene.follow())
    await scene.clock.advance(age)
    try:
        yield scene
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_new_control_plane_does_not_know_its_envoys() -> None:
    async with running(age=0.1) as scene:
        assert scene.status == UNKNOWN
        scene.connect("one")  # another one may still connect
        await scene.report("one")
        assert scene.status == DrainStatus(2, 1, 1, 0)
        await scene.clock.advance(ABSENCE)
        assert scene.status == DONE


async def test_without_envoys_there_is_no_wait() -> None:
    async with running() as scene:
        assert scene.status == IDLE


async def test_an_envoy_that_loses_its_stream_does_not_end_a_drain() -> None:
    async with running() as scene:
        stream = scene.connect("one")
        await scene.report("one")
        assert scene.status == DONE
        scene.envoys.remove(stream)
        await scene.look()
        assert scene.status == UNKNOWN
        assert scene.nodes == ("one",)  # a control plane that has it need not wait for it here
        scene.connect("one")
        await scene.look()
        assert scene.status == DrainStatus(1, 1, 0, 0)
        await scene.report("one")
        assert scene.status == DONE


async def test_an_envoy_that_stays_absent_is_gone() -> None:
    async with running() as scene:
        scene.envoys.remove(scene.connect("one"))
        await scene.clock.advance(ABSENCE - 0.1)
        assert scene.status == UNKNOWN
        await scene.clock.advance(0.2)
        assert scene.status == IDLE


async def test_two_envoys_with_one_id_cannot_be_distinguished() -> None:
    async with running() as scene:
        scene.connect("one")
        twin = scene.connect("one")
        await scene.report("one")
        assert scene.status == DrainStatus(2, 2, 0, 0)
        scene.envoys.remove(twin)
        await scene.clock.advance(ABSENCE)
        await scene.report("one")
        assert scene.status == DONE


async def test_an_envoy_with_a_newer_stream_is_not_absent() -> None:
    async with running() as scene:
        broken = scene.connect("one")
        await scene.clock.advance(1.0)
        scene.connect("one")
        await scene.report("one")
        assert scene.status == DrainStatus(2, 2, 0, 0)  # it may as well be another Envoy
        scene.envoys.remove(broken)
        await scene.look()
        assert scene.status == DrainStatus(1, 1, 0, 0)  # the report may be the other one's
        await scene.report("one")
        assert scene.status == DONE


async def test_an_envoy_whose_newest_stream_has_ended_is_absent() -> None:
    async with running() as scene:
        scene.connect("one")
        await scene.clock.advance(1.0)
        newest = scene.connect("one")
        scene.envoys.remove(newest)
        await scene.report("one")
        assert scene.status == DrainStatus(2, 1, 1, 0)
        await scene.clock.advance(ABSENCE)
        await scene.report("one")
        assert scene.status == DONE


async def test_a_stream_without_a_node_id_is_not_remembered() -> None:
    async with running() as scene:
        nameless = EnvoyStream(DeltaStream(), since=scene.clock.now())
        scene.envoys.add(nameless)
        await scene.look()
        assert scene.status == UNKNOWN
        scene.envoys.remove(nameless)
        await scene.look()
        assert scene.status == IDLE
        assert not scene.envoys.reports


async def test_a_switchover_does_not_wait_for_an_envoy_with_a_newer_stream() -> None:
    async with running() as scene:
        broken = scene.connect("one")
        await scene.clock.advance(1.0)
        scene.connect("one")
        catalog: Latest[Catalog | None] = Latest(CATALOG)
        statuses = scene.envoys.watch_primary(catalog, scene.publication, "triton")
        assert (await anext(statuses)).envoys == 2
        status = asyncio.ensure_future(anext(statuses))
        scene.envoys.remove(broken)
        await scene.look()
        assert status.done()
        assert status.result().envoys == 1
        await statuses.aclose()  # type: ignore[attr-defined]


async def test_an_absence_that_ends_between_two_checks_is_not_missed() -> None:
    scene = Scene()
    await scene.clock.advance(ABSENCE)
    scene.envoys.remove(scene.connect("one"))
    statuses = scene.envoys.watch_drain(scene.publication, "triton", "a")
    assert await anext(statuses) == replace(UNKNOWN, nodes=("one",))
    # This reader is slow, and others check in the meantime.
    await scene.clock.advance(ABSENCE + 1.0)
    others = scene.envoys.watch_drain(scene.publication, "triton", "a")
    assert await anext(others) == IDLE
    waiting = asyncio.ensure_future(anext(statuses))
    await scene.clock.advance(ABSENCE)
    assert waiting.done()
    assert waiting.result() == IDLE
    for each in (statuses, others):
        await each.aclose()  # type: ignore[attr-defined]


async def test_an_absence_that_another_watch_has_ended_wakes_all() -> None:
    async with running() as scene:
        scene.envoys.remove(scene.connect("one"))
        await scene.look()
        assert scene.status == UNKNOWN
        await scene.clock.advance(ABSENCE - PACE - 1e-9)
        scene.envoys.remove(scene.connect("two"))  # which forgets the absent ones
        await scene.clock.advance(ABSENCE / 2)
        assert scene.status == UNKNOWN
        await scene.clock.advance(ABSENCE)
        assert scene.status == IDLE


async def test_many_reports_cost_one_check(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []
    ads = DeltaStream.acknowledges_without

    def looked(self: DeltaStream, service: str, instance: str) -> bool:
        looks.append(instance)
        return ads(self, service, instance)

    monkeypatch.setattr(DeltaStream, "acknowledges_without", looked)
    async with running() as scene:
        nodes = [f"envoy-{number}" for number in range(100)]
        for node in nodes:
            scene.connect(node)
        await scene.clock.advance(1.0)
        looks.clear()
        for node in nodes:
            scene.envoys.report(node, LoadReport(scene.clock.now(), {}, frozenset({"triton"})))
            await settle()
        await scene.look()
        assert scene.status == DrainStatus(100, 100, 100, 0)
        assert len(looks) <= 2 * len(nodes)  # at the first report, and once for all others


async def test_a_late_report_of_a_departed_envoy_is_not_kept() -> None:
    async with running() as scene:
        scene.envoys.remove(scene.connect("one"))
        await scene.report("one")
        assert scene.envoys.reports.keys() == {"one"}  # it may come back
        await scene.clock.advance(ABSENCE + PACE)
        assert not scene.envoys.reports
        await scene.report("one")
        await scene.report("never seen")
        assert not scene.envoys.reports


async def test_rejecting_envoys_are_counted_while_envoys_come_and_go() -> None:
    # The metrics are read in another thread.
    scene = Scene()

    class AddsAnother(DeltaStream):
        @property
        def rejecting(self) -> bool:
            scene.envoys.add(EnvoyStream(DeltaStream()))
            return True

    for _ in range(3):
        scene.envoys.add(EnvoyStream(AddsAnother()))
    assert scene.envoys.rejecting == 3
