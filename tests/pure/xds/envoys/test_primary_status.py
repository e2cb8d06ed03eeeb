"""Which instance is reported as primary, and how many Envoys follow it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
from envoy.service.discovery.v3 import discovery_pb2

from sidecar.control_planes.rpc import Primary
from sidecar.runtime.latest import Latest
from sidecar.xds.ads.ads_stream import DeltaStream
from sidecar.xds.catalog.catalog import Catalog, Health, Instance, Leader, ServiceCatalog
from sidecar.xds.config.edge import Edge
from sidecar.xds.config.snapshot import ENDPOINT, build
from sidecar.xds.envoys.envoy_streams import ABSENCE, Envoys, EnvoyStream
from sidecar.xds.envoys.primary_status import PrimaryStatus
from sidecar.xds.publication import Publication
from tests.support.virtual_clock import VirtualClock, settle

A = Instance("a", "10.0.0.1", 8001, 9001)
B = Instance("b", "10.0.0.2", 8001, 9001)
EDGE = Edge()


def service(*instances: Instance, leader: Leader | None) -> Catalog:
    return Catalog((ServiceCatalog("triton", instances, leader),))


@pytest.mark.parametrize(
    ("instances", "leader", "preferred"),
    [
        ((A, B), "a", "a"),
        ((A,), "a", "a"),
        ((A, B), None, None),
        ((replace(A, health=Health.CRITICAL), B), "a", "b"),
        ((replace(A, draining=True), B), "a", "b"),
        ((replace(A, draining=True),), "a", None),
        ((B,), "gone", "b"),
        ((), "a", None),
    ],
)
def test_only_an_instance_alone_in_the_first_priority_is_preferred(
    instances: tuple[Instance, ...], leader: str | None, preferred: str | None
) -> None:
    snapshot = build(service(*instances, leader=Leader(leader, 1) if leader else None), EDGE)
    assert [name for name in "ab" if snapshot.prefers("triton", name)] == list(preferred or "")
    assert not snapshot.prefers("other", "a")


@pytest.mark.parametrize(
    ("primary", "agrees"),
    [
        (Primary(True, "a", 7, envoys=2, acknowledged=2), True),
        (Primary(True, "a", 8, envoys=2, acknowledged=2), True),
        (Primary(True, "a", 7, envoys=0, acknowledged=0), True),
        (Primary(True, "a", 6, envoys=2, acknowledged=2), False),
        (Primary(True, "b", 7, envoys=2, acknowledged=2), False),
        (Primary(True, "a", 7, envoys=2, acknowledged=1), False),
        (Primary(True, "", 0, envoys=0, acknowledged=0), False),
        (Primary(False, "", 0, envoys=0, acknowledged=0), True),
    ],
)
def test_a_control_plane_agrees_when_all_its_envoys_do(primary: Primary, agrees: bool) -> None:
    assert primary.agrees("a", 7) is agrees


class Scene:
    """A control plane, its Envoys, and its newest status."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.catalog: Latest[Catalog | None] = Latest(None)
        self.publication = Publication(self.catalog, EDGE, self.clock)
        self.envoys = Envoys(self.clock)
        self.statuses: list[PrimaryStatus] = []

    async def follow(self, name: str = "triton") -> None:
        async for status in self.envoys.watch_primary(self.catalog, self.publication, name):
            self.statuses.append(status)

    async def publish(self, *instances: Instance, leader: Leader | None) -> None:
        self.catalog.set(service(*instances, leader=leader))
        await settle()

    def connect(self, node: str) -> EnvoyStream:
        stream = EnvoyStream(DeltaStream())
        self.envoys.add(stream)
        self.envoys.identify(stream, node)
        ask = discovery_pb2.DeltaDiscoveryRequest(
            type_url=ENDPOINT, resource_names_subscribe=["triton"]
        )
        stream.ads.receive(ask)
        return stream

    async def acknowledge(self, stream: EnvoyStream, *, refuse: bool = False) -> None:
        assert self.publication.snapshot.value is not None
        [reply] = stream.ads.offers(self.publication.snapshot.value)
        answer = discovery_pb2.DeltaDiscoveryRequest(type_url=ENDPOINT, response_nonce=reply.nonce)
        if refuse:
            answer.error_detail.message = "no"
        stream.ads.receive(answer)
        self.envoys.changed()
        await settle()

    @property
    def status(self) -> PrimaryStatus:
        return self.statuses[-1]


@asynccontextmanager
async def running(name: str = "triton") -> AsyncIterator[Scene]:
    """A control plane that has run for a while."""
    scene = Scene()
    tasks = [asyncio.create_task(scene.publication.run()), asyncio.create_task(scene.follow(name))]
    await scene.clock.advance(ABSENCE)
    try:
        yield scene
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_before_anything_is_known_there_is_no_primary() -> None:
    async with running() as scene:
        # At first some Envoys may still connect.
        assert scene.statuses == [PrimaryStatus(envoys=1), PrimaryStatus()]
        await scene.publish(A, B, leader=None)
        assert scene.status == PrimaryStatus()


async def test_each_envoy_counts_when_it_has_acknowledged() -> None:
    async with running() as scene:
        await scene.publish(A, B, leader=Leader("a", 7))
        one, two = scene.connect("one"), scene.connect("two")
        await scene.acknowledge(one)
        assert scene.status == PrimaryStatus(True, "a", 7, envoys=2, acknowledged=1)
        await scene.acknowledge(two)
        assert scene.status.acknowledged == 2
        await scene.publish(A, B, leader=Leader("b", 9))
        assert scene.status == PrimaryStatus(True, "b", 9, envoys=2, acknowledged=0)
        await scene.acknowledge(one, refuse=True)
        await scene.acknowledge(two)
        assert scene.status.acknowledged == 1


async def test_a_later_epoch_of_the_same_instance_needs_no_new_acknowledgement() -> None:
    async with running() as scene:
        await scene.publish(A, B, leader=Leader("a", 7))
        await scene.acknowledge(scene.connect("one"))
        await scene.publish(A, B, leader=Leader("a", 8))
        assert scene.status == PrimaryStatus(True, "a", 8, envoys=1, acknowledged=1)


async def test_no_envoy_acknowledges_an_unusable_primary() -> None:
    async with running() as scene:
        await scene.publish(A, B, leader=Leader("a", 7))
        one = scene.connect("one")
        await scene.acknowledge(one)
        assert scene.status.acknowledged == 1
        await scene.publish(replace(A, health=Health.CRITICAL), B, leader=Leader("a", 7))
        # Before Envoy has acknowledged it, and after.
        assert scene.status == PrimaryStatus(True, "a", 7, envoys=1, acknowledged=0)
        await scene.acknowledge(one)
        assert scene.status.acknowledged == 0


async def test_an_envoy_without_a_stream_is_waited_for() -> None:
    async with running() as scene:
        await scene.publish(A, leader=Leader("a", 7))
        one = scene.connect("one")
        await scene.acknowledge(one)
        scene.envoys.remove(one)
        await settle()
        assert scene.status == PrimaryStatus(True, "a", 7, envoys=1, acknowledged=0)
        await scene.clock.advance(ABSENCE + 0.1)
        assert scene.status == PrimaryStatus(True, "a", 7)


async def test_nothing_is_known_about_a_service_of_other_control_planes() -> None:
    async with running("other") as scene:
        await scene.publish(A, leader=Leader("a", 7))
        await scene.acknowledge(scene.connect("one"))
        assert scene.status == PrimaryStatus(followed=False)
