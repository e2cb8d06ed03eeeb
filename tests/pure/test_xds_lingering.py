"""The cluster of a release that has ended: which is kept, as what, and until when."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.runtime.v3 import rtds_pb2

from sidecar.latest import Latest
from sidecar.traffic.policy import DEFAULTS, Limits, Mode, Release, TrafficPolicy
from sidecar.xds.catalog import Catalog, Instance, Leader, ServiceCatalog
from sidecar.xds.conversation import DeltaConversation
from sidecar.xds.drain import EnvoyView, deserted
from sidecar.xds.edge import Edge
from sidecar.xds.endpoints import release_cluster
from sidecar.xds.envoys import ABSENCE, PACE, Envoys, EnvoyStream
from sidecar.xds.explain import Belief, explain
from sidecar.xds.lingering import linger
from sidecar.xds.load import LoadReport
from sidecar.xds.primary import primary_status
from sidecar.xds.publication import Publication
from sidecar.xds.routes import ROUTES
from sidecar.xds.snapshot import CLUSTER, ENDPOINT, ROUTE, RUNTIME, Snapshot, build
from tests.pure.test_xds_watch import HandClock

EDGE = Edge()
A = Instance("a", "10.0.0.1", 8001, 9001)
B = Instance("b", "10.0.0.2", 8001, 9001, tags=("new",))
RELEASED = replace(DEFAULTS, release=Release(tag="new", percent=10))
NAME = release_cluster("triton")
PLACE = (NAME, "10.0.0.2", 8001)
KEPT = frozenset({"triton", NAME})


def catalog(policy: TrafficPolicy, *instances: Instance, name: str = "triton") -> Catalog:
    return Catalog((ServiceCatalog(name, instances or (A, B), Leader("a", 1), True, policy),))


BEFORE, AFTER = catalog(RELEASED), catalog(DEFAULTS)


def test_a_release_that_ends_lingers_as_it_was() -> None:
    assert linger({}, None, BEFORE) == {}
    assert linger({}, None, AFTER) == {}
    assert linger({}, BEFORE, AFTER) == {"triton": RELEASED}
    strict = catalog(replace(RELEASED, mode=Mode.STRICT))
    assert linger({}, BEFORE, strict) == {"triton": RELEASED}
    later = catalog(replace(DEFAULTS, mode=Mode.WEIGHTED))
    assert linger({"triton": RELEASED}, AFTER, later) == {"triton": RELEASED}


def test_one_that_returns_or_whose_service_is_not_served_does_not() -> None:
    assert linger({"triton": RELEASED}, AFTER, BEFORE) == {}
    assert linger({"triton": RELEASED}, AFTER, catalog(DEFAULTS, name="other")) == {}


def test_its_cluster_stays_the_same_one_and_no_route_leads_there() -> None:
    before, after = build(BEFORE, EDGE), build(AFTER, EDGE, {"triton": RELEASED})
    assert before.of(CLUSTER)[NAME] == after.of(CLUSTER)[NAME]
    assert before.of(ENDPOINT)[NAME] == after.of(ENDPOINT)[NAME]
    assert NAME in before.routed
    assert NAME not in after.routed
    # What fails there is sent again, and whoever is withdrawn gets none of that.
    gone = build(catalog(DEFAULTS, A, replace(B, draining=True)), EDGE, {"triton": RELEASED})
    assert gone.assignments[NAME].routable == {"a"}
    assert [each.id for each in gone.assignments[NAME].withdrawn] == ["b"]
    assert after != build(AFTER, EDGE)


def test_it_is_explained() -> None:
    after = build(AFTER, EDGE, {"triton": RELEASED})
    [service] = AFTER.services
    stable, former = explain(service, after.assignments, Belief(), "b")
    ended = "the release has ended: nothing new goes to it, and it is kept for what it has"
    assert ended in former.why
    assert ended not in stable.why


def test_a_release_that_comes_and_goes_makes_no_new_cluster_of_the_others() -> None:
    limits = Limits(retry_memory_bytes=2**30)
    snapshots = [
        build(catalog(replace(policy, limits=limits)), EDGE) for policy in (DEFAULTS, RELEASED)
    ]
    without, released = (each.of(CLUSTER)["triton"] for each in snapshots)
    assert without == released
    assert snapshots[0].of(RUNTIME) != snapshots[1].of(RUNTIME)  # which says the limits


def test_a_cluster_is_deserted_when_every_envoy_has_said_so_since() -> None:
    empty = LoadReport(20.0, {PLACE: 0, ("triton", "10.0.0.2", 8001): 7}, KEPT)
    assert deserted([], NAME)
    assert deserted([EnvoyView("e", 10.0, empty)], NAME)
    assert not deserted([EnvoyView("e", 10.0, empty), EnvoyView("f", None, empty)], NAME)
    assert not deserted([EnvoyView("e", 20.0, empty)], NAME)
    assert not deserted([EnvoyView("e", 10.0, None)], NAME)
    assert not deserted([EnvoyView("e", 10.0, replace(empty, in_flight={PLACE: 1}))], NAME)
    assert not deserted([EnvoyView("e", 10.0, replace(empty, clusters=frozenset()))], NAME)


class Scene:
    """A control plane whose release ends, with one Envoy that confirms everything."""

    def __init__(self, catalog: Catalog = BEFORE) -> None:
        self.clock = HandClock()
        self.catalog: Latest[Catalog | None] = Latest(catalog)
        self.publication = Publication(self.catalog, EDGE, self.clock)
        self.envoys = Envoys(self.clock)
        self.stream = EnvoyStream(DeltaConversation())

    @property
    def snapshot(self) -> Snapshot:
        assert self.publication.snapshot.value is not None
        return self.publication.snapshot.value

    def connect(self) -> None:
        self.envoys.add(self.stream)
        self.envoys.name(self.stream, "one")
        every = sorted(self.snapshot.of(ENDPOINT))
        wanted: dict[str, list[str]] = {CLUSTER: [], ENDPOINT: every, ROUTE: [ROUTES]}
        for type_url, names in wanted.items():
            self.stream.conversation.receive(
                discovery_pb2.DeltaDiscoveryRequest(
                    type_url=type_url, resource_names_subscribe=names
                )
            )

    def confirm(self) -> None:
        while replies := list(self.stream.conversation.offers(self.snapshot)):
            for reply in replies:
                self.stream.conversation.receive(
                    discovery_pb2.DeltaDiscoveryRequest(
                        type_url=reply.type_url, response_nonce=reply.nonce
                    )
                )
        self.envoys.changed()

    async def report(self, in_flight: int) -> None:
        await self.clock.turn(1.0)
        self.envoys.report("one", LoadReport(self.clock.now(), {PLACE: in_flight}, KEPT))
        await self.clock.turn(PACE)

    def kept(self) -> bool:
        return NAME in self.snapshot.of(CLUSTER)


@asynccontextmanager
async def running(catalog: Catalog = BEFORE) -> AsyncIterator[Scene]:
    scene = Scene(catalog)
    loops = (scene.publication.run(), scene.envoys.empty_releases(scene.publication))
    tasks = [asyncio.create_task(loop) for loop in loops]
    await scene.clock.turn(ABSENCE)
    scene.connect()
    scene.confirm()
    try:
        yield scene
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_it_goes_when_nothing_is_in_flight_on_it() -> None:
    async with running() as scene:
        await scene.report(1)
        scene.catalog.set(AFTER)
        await scene.report(0)
        assert scene.kept()  # its routes may lead there still
        scene.confirm()
        await scene.report(1)
        assert scene.kept()
        await scene.report(0)
        assert not scene.kept()
        assert scene.publication.lingering.value == {}
        scene.confirm()
        assert not scene.stream.conversation.behind(scene.snapshot)


async def test_what_was_reported_before_a_second_release_ended_does_not_count_for_that() -> None:
    def two(first: TrafficPolicy, second: TrafficPolicy) -> Catalog:
        others = replace(A, id="c", address="10.0.1.1"), replace(B, id="d", address="10.0.1.2")
        [one] = catalog(first).services
        [other] = catalog(second, *others, name="other").services
        return Catalog((one, replace(other, leader=Leader("c", 1))))

    second = release_cluster("other")
    async with running(two(RELEASED, RELEASED)) as scene:
        scene.catalog.set(two(DEFAULTS, RELEASED))
        await scene.clock.turn(0.2)
        scene.confirm()
        await scene.clock.turn(1.0)
        every = frozenset(scene.snapshot.of(ENDPOINT))
        scene.envoys.report("one", LoadReport(scene.clock.now(), {PLACE: 1}, every))
        await scene.clock.turn(PACE / 3)  # the report has been looked at, for the first one
        scene.catalog.set(two(DEFAULTS, DEFAULTS))
        await scene.clock.turn(PACE / 3)
        scene.confirm()
        await scene.clock.turn(PACE)
        assert second in scene.snapshot.of(CLUSTER)
        scene.envoys.report("one", LoadReport(scene.clock.now() + 1.0, {PLACE: 1}, every))
        await scene.clock.turn(PACE)
        assert second not in scene.snapshot.of(CLUSTER)
        assert scene.kept()


async def test_who_leads_in_a_former_release_is_no_primary_by_that() -> None:
    async with running() as scene:
        scene.catalog.set(AFTER)
        await scene.clock.turn(0.1)
        scene.confirm()
        [service] = AFTER.services
        now = Catalog((replace(service, leader=Leader("b", 2)),))
        scene.catalog.set(now)
        await scene.clock.turn(0.1)

        def acknowledged() -> int:
            told = [scene.stream.conversation]
            return primary_status("triton", now, scene.snapshot, told, 0).acknowledged

        assert scene.kept()
        assert acknowledged() == 0
        scene.confirm()
        assert acknowledged() == 1


def test_what_lingers_keeps_its_share_of_the_memory_for_retries() -> None:
    limited = replace(DEFAULTS, limits=Limits(retry_memory_bytes=2**30))
    lingering = {"triton": replace(RELEASED, limits=limited.limits)}
    alone, beside = (build(catalog(limited), EDGE, each).of(RUNTIME) for each in ({}, lingering))
    key = "circuit_breakers.triton.default.max_requests"
    found = []
    for resources in (alone, beside):
        [resource] = resources.values()
        runtime = rtds_pb2.Runtime()
        resource.body.Unpack(runtime)
        found.append(runtime.layer[key] + runtime.layer[key.replace("max_", "max_pending_")])
    assert found[1] <= (found[0] + 1) / 2


async def test_it_stays_while_an_envoy_is_away() -> None:
    async with running() as scene:
        scene.catalog.set(AFTER)
        await scene.clock.turn(0.1)
        scene.confirm()
        scene.envoys.remove(scene.stream)
        await scene.clock.turn(ABSENCE - 0.5)
        assert scene.kept()
        await scene.clock.turn(1.0)
        assert not scene.kept()


async def test_it_is_nothing_new_when_the_catalog_changes_meanwhile() -> None:
    async with running() as scene:
        scene.catalog.set(AFTER)
        await scene.clock.turn(0.1)
        before = scene.snapshot.of(CLUSTER)[NAME]
        scene.catalog.set(catalog(DEFAULTS, replace(A, weight=7), B))
        await scene.clock.turn(0.1)
        assert scene.snapshot.of(CLUSTER)[NAME] == before
        scene.catalog.set(BEFORE)
        await scene.clock.turn(0.1)
        assert scene.publication.lingering.value == {}
        assert scene.snapshot.of(CLUSTER)[NAME] == before
