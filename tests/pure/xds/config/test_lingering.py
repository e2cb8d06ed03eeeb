"""Former clusters: which are kept, with which policy, and until when."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.runtime.v3 import rtds_pb2
from hypothesis import given
from hypothesis import strategies as st

from sidecar.runtime.latest import Latest
from sidecar.traffic.policy import (
    DEFAULTS,
    Affinity,
    Connection,
    HealthCheck,
    Limits,
    Match,
    Mode,
    OutlierDetection,
    Release,
    Retry,
    TrafficPolicy,
)
from sidecar.xds.ads.ads_stream import DeltaStream
from sidecar.xds.api.explain import RetainedState, explain
from sidecar.xds.catalog.catalog import Catalog, Instance, Leader, ServiceCatalog
from sidecar.xds.config.edge import Edge
from sidecar.xds.config.endpoints import clusters_of, is_release, release_cluster, service_of
from sidecar.xds.config.lingering import FormerCluster, Lingering, clusters, linger
from sidecar.xds.config.routes import ROUTES
from sidecar.xds.config.snapshot import CLUSTER, ENDPOINT, ROUTE, RUNTIME, Snapshot, build
from sidecar.xds.envoys.drain_status import EnvoyView, is_idle
from sidecar.xds.envoys.envoy_streams import ABSENCE, PACE, Envoys, EnvoyStream
from sidecar.xds.envoys.load_report import LoadReport
from sidecar.xds.envoys.primary_status import primary_status
from sidecar.xds.publication import Publication
from tests.support.traffic_policies import policies
from tests.support.virtual_clock import VirtualClock

EDGE = Edge()
A = Instance("a", "10.0.0.1", 8001, 9001)
B = Instance("b", "10.0.0.2", 8001, 9001, tags=("new",))
RELEASED = replace(DEFAULTS, release=Release(tag="new", percent=10))
NAME = release_cluster("triton")
PLACE = (NAME, "10.0.0.2", 8001)
KEPT = frozenset({"triton", NAME})
FORMER = {NAME: FormerCluster("triton", NAME, RELEASED)}


def catalog(policy: TrafficPolicy, *instances: Instance, name: str = "triton") -> Catalog:
    return Catalog((ServiceCatalog(name, instances or (A, B), Leader("a", 1), True, policy),))


BEFORE, AFTER = catalog(RELEASED), catalog(DEFAULTS)


def test_the_cluster_of_an_ended_release_lingers_unchanged() -> None:
    assert linger({}, None, BEFORE) == {}
    assert linger({}, None, AFTER) == {}
    assert linger({}, BEFORE, AFTER) == FORMER
    strict = catalog(replace(RELEASED, mode=Mode.STRICT))
    assert (
        linger({}, BEFORE, strict)
        == {"triton": FormerCluster("triton", "triton", RELEASED)} | FORMER
    )
    later = catalog(replace(DEFAULTS, mode=Mode.ACTIVE_ACTIVE))
    assert linger(FORMER, AFTER, later) == FORMER


def test_a_cluster_that_returns_or_whose_service_is_unknown_does_not_linger() -> None:
    assert linger(FORMER, AFTER, BEFORE) == {}
    assert linger(FORMER, AFTER, catalog(DEFAULTS, name="other")) == {}


def test_a_cluster_that_a_policy_replaces_lingers_unchanged() -> None:
    slow = replace(DEFAULTS, health_check=HealthCheck(interval=7.0))
    former = {"triton": FormerCluster("triton", "triton", DEFAULTS)}
    assert linger({}, AFTER, catalog(slow)) == former
    other = catalog(replace(slow, connection=Connection(connect_timeout=7.0)))
    both = linger(former, catalog(slow), other)
    assert next(iter(both)) == "triton"
    assert [each.policy for each in both.values()] == [DEFAULTS, slow]
    # Unchanged, and without a route; it returns under its own name.
    before, after = build(AFTER, EDGE), build(catalog(slow), EDGE, former)
    assert before.of(CLUSTER)["triton"] == after.of(CLUSTER)["triton"]
    assert "triton" not in after.routed
    assert set(after.of(ENDPOINT)) == {"triton", *after.routed}
    assert list(linger(former, catalog(slow), AFTER).values()) == [
        FormerCluster("triton", "triton", slow)
    ]


def test_former_clusters_follow_the_catalog() -> None:
    slow = replace(DEFAULTS, health_check=HealthCheck(interval=7.0))
    former = {"triton": FormerCluster("triton", "triton", DEFAULTS)}
    gone = build(catalog(slow, replace(A, draining=True), B), EDGE, former)
    for name in gone.assignments:
        assert [each.id for each in gone.assignments[name].withdrawn] == ["a"]
    assert not gone.routes_to("triton", "a")


def test_the_number_of_former_clusters_is_bounded() -> None:
    """While an Envoy reports no load, none of them is removed."""
    before: Lingering = {}
    was = AFTER
    for interval in range(1, 40):
        now = catalog(replace(DEFAULTS, health_check=HealthCheck(interval=float(interval))))
        before, was = linger(before, was, now), now
    assert [each.policy.health_check.interval for each in before.values()] == [
        float(interval) for interval in range(31, 39)
    ]


@pytest.mark.parametrize(
    ("changes", "another"),
    [
        ({"health_check": HealthCheck(interval=7.0)}, True),
        ({"outlier_detection": OutlierDetection(consecutive_local_origin_failure=7)}, True),
        ({"connection": Connection(connect_timeout=7.0)}, True),
        ({"mode": Mode.ACTIVE_ACTIVE, "affinity": Affinity(header="x-user")}, True),
        ({"mode": Mode.WEIGHTED}, True),
        ({"limits": Limits(slow_start=7.0)}, True),
        ({"limits": Limits(max_connections=7)}, True),
        ({"limits": Limits(max_requests=7)}, True),
        ({"limits": Limits(retry_memory_bytes=2**30)}, True),
        ({"mode": Mode.ACTIVE_ACTIVE}, False),
        ({"mode": Mode.STRICT}, True),
        ({"limits": Limits(stream_idle_timeout=7.0)}, False),
        ({"retry": Retry(num_retries=0)}, False),
        ({"match": Match(authorities=("chat",))}, False),
        ({"release": Release(tag="new", percent=10)}, False),
    ],
)
def test_which_changes_make_another_cluster(changes: dict[str, Any], another: bool) -> None:
    changed = catalog(replace(DEFAULTS, **changes))
    assert ("triton" in linger({}, AFTER, changed)) is another
    assert ("triton" in clusters(changed, quarantine=False)) is not another


@given(policies(), policies(), st.booleans())
def test_clusters_with_the_same_name_are_equal(
    one: TrafficPolicy, other: TrafficPolicy, quarantined: bool
) -> None:
    edge = Edge(quarantine=1.0 if quarantined else 0.0)
    first, second = (build(catalog(policy), edge).of(CLUSTER) for policy in (one, other))
    for name in first.keys() & second.keys():
        assert first[name] == second[name]
    for name, resource in first.items():
        cluster = cluster_pb2.Cluster()
        resource.body.Unpack(cluster)
        assert cluster.name == name
        assert service_of(name) == "triton"
        assert (cluster.alt_stat_name or name) in clusters_of("triton")
        assert ("release" in (cluster.alt_stat_name or name)) is is_release(name)


def test_a_former_cluster_stays_the_same_and_gets_no_route() -> None:
    before, after = build(BEFORE, EDGE), build(AFTER, EDGE, FORMER)
    assert before.of(CLUSTER)[NAME] == after.of(CLUSTER)[NAME]
    assert before.of(ENDPOINT)[NAME] == after.of(ENDPOINT)[NAME]
    assert NAME in before.routed
    assert NAME not in after.routed
    # Failed requests on it are retried, but not on withdrawn instances.
    gone = build(catalog(DEFAULTS, A, replace(B, draining=True)), EDGE, FORMER)
    assert gone.assignments[NAME].routable == {"a"}
    assert [each.id for each in gone.assignments[NAME].withdrawn] == ["b"]
    assert after != build(AFTER, EDGE)


def test_a_former_cluster_is_explained() -> None:
    after = build(AFTER, EDGE, FORMER)
    [service] = AFTER.services
    stable, former = explain(service, after.assignments, RetainedState(), "b")
    ended = "the release has ended: it gets no new requests, and finishes those it has"
    assert ended in former.why
    assert ended not in stable.why


def test_the_cluster_of_an_earlier_policy_is_explained() -> None:
    slow = catalog(replace(DEFAULTS, health_check=HealthCheck(interval=7.0)))
    former = linger({}, AFTER, slow)
    [service] = slow.services
    found = explain(
        service, build(slow, EDGE, former).assignments, RetainedState(), "b", "", former
    )
    kept = "an earlier policy's cluster: it gets no new requests, and finishes those it has"
    assert {each.cluster for each in found if kept in each.why} == {"triton"}
    assert len(found) == 2


def test_a_release_does_not_replace_the_cluster_of_the_other_instances() -> None:
    limits = Limits(retry_memory_bytes=2**30)
    snapshots = [
        build(catalog(replace(policy, limits=limits)), EDGE) for policy in (DEFAULTS, RELEASED)
    ]
    without, released = (each.of(CLUSTER) for each in snapshots)
    [stable] = without
    assert without[stable] == released[stable]
    assert snapshots[0].of(RUNTIME) != snapshots[1].of(RUNTIME)  # which has the limits


def test_a_cluster_is_idle_once_every_envoy_has_reported_it_since() -> None:
    empty = LoadReport(20.0, {PLACE: 0, ("triton", "10.0.0.2", 8001): 7}, KEPT)
    assert is_idle([], NAME)
    assert is_idle([EnvoyView("e", 10.0, empty)], NAME)
    assert not is_idle([EnvoyView("e", 10.0, empty), EnvoyView("f", None, empty)], NAME)
    assert not is_idle([EnvoyView("e", 20.0, empty)], NAME)
    assert not is_idle([EnvoyView("e", 10.0, None)], NAME)
    assert not is_idle([EnvoyView("e", 10.0, replace(empty, in_flight={PLACE: 1}))], NAME)
    assert not is_idle([EnvoyView("e", 10.0, replace(empty, clusters=frozenset()))], NAME)


class Scene:
    """A control plane whose release ends, with one Envoy that acknowledges everything.

    `brought` are the clusters that the Envoy has from an earlier stream.
    """

    def __init__(self, catalog: Catalog = BEFORE, *brought: str) -> None:
        self.brought = dict.fromkeys(brought, "of an earlier stream")
        self.clock = VirtualClock()
        self.catalog: Latest[Catalog | None] = Latest(catalog)
        self.publication = Publication(self.catalog, EDGE, self.clock)
        self.envoys = Envoys(self.clock)
        self.stream = EnvoyStream(DeltaStream())

    @property
    def snapshot(self) -> Snapshot:
        assert self.publication.snapshot.value is not None
        return self.publication.snapshot.value

    def connect(self) -> None:
        self.envoys.add(self.stream)
        self.envoys.identify(self.stream, "one")
        every = sorted(self.snapshot.of(ENDPOINT))
        wanted: dict[str, list[str]] = {CLUSTER: [], ENDPOINT: every, ROUTE: [ROUTES]}
        for type_url, names in wanted.items():
            self.stream.ads.receive(
                discovery_pb2.DeltaDiscoveryRequest(
                    type_url=type_url,
                    resource_names_subscribe=names,
                    initial_resource_versions=self.brought if type_url == CLUSTER else {},
                )
            )

    def confirm(self) -> None:
        while replies := list(self.stream.ads.offers(self.snapshot)):
            for reply in replies:
                self.stream.ads.receive(
                    discovery_pb2.DeltaDiscoveryRequest(
                        type_url=reply.type_url, response_nonce=reply.nonce
                    )
                )
        self.envoys.changed()

    async def report(self, in_flight: int) -> None:
        await self.clock.advance(1.0)
        self.envoys.report("one", LoadReport(self.clock.now(), {PLACE: in_flight}, KEPT))
        await self.clock.advance(PACE)

    def kept(self) -> bool:
        return NAME in self.snapshot.of(CLUSTER)


@asynccontextmanager
async def running(catalog: Catalog = BEFORE, *brought: str) -> AsyncIterator[Scene]:
    scene = Scene(catalog, *brought)
    loops = (scene.publication.run(), scene.envoys.empty_clusters(scene.publication))
    tasks = [asyncio.create_task(loop) for loop in loops]
    await scene.clock.advance(ABSENCE)
    scene.connect()
    scene.confirm()
    try:
        yield scene
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_it_is_removed_when_nothing_is_in_flight_on_it() -> None:
    async with running() as scene:
        await scene.report(1)
        scene.catalog.set(AFTER)
        await scene.report(0)
        assert scene.kept()  # its routes may still lead there
        scene.confirm()
        await scene.report(1)
        assert scene.kept()
        await scene.report(0)
        assert not scene.kept()
        assert scene.publication.lingering.value == {}
        scene.confirm()
        assert not scene.stream.ads.behind(scene.snapshot)


async def test_an_inherited_cluster_is_removed_when_nothing_is_in_flight_on_it() -> None:
    """The control plane was restarted, or the Envoy was connected to another one."""
    async with running(AFTER, NAME) as scene:
        ads = scene.stream.ads
        assert ads.inherited == {NAME}
        assert ads.subscriptions[CLUSTER].known == KEPT
        await scene.report(1)
        scene.confirm()
        assert ads.subscriptions[CLUSTER].known == KEPT
        await scene.report(0)
        assert scene.stream.wake.is_set()
        scene.confirm()
        assert ads.inherited == frozenset()
        assert ads.subscriptions[CLUSTER].known == {"triton"}


async def test_it_is_removed_although_instances_change_all_the_time() -> None:
    async with running() as scene:
        scene.catalog.set(AFTER)
        await scene.clock.advance(0.1)
        scene.confirm()
        for weight in range(2, 12):
            scene.catalog.set(catalog(DEFAULTS, replace(A, weight=weight), B))
            await scene.clock.advance(PACE)
            every = frozenset(scene.snapshot.of(ENDPOINT))
            scene.envoys.report("one", LoadReport(scene.clock.now(), {}, every))
            await scene.clock.advance(PACE)
            scene.confirm()
            await scene.clock.advance(PACE / 2)
        assert not scene.kept()


async def test_a_report_from_before_routes_led_there_again_does_not_count() -> None:
    async with running() as scene:
        scene.catalog.set(AFTER)
        await scene.clock.advance(0.1)
        scene.confirm()
        await scene.clock.advance(1.0)
        scene.envoys.changed()  # the next check is PACE after this one
        await scene.clock.advance(PACE / 10)
        for now in (BEFORE, AFTER):
            scene.catalog.set(now)
            await scene.clock.advance(PACE / 10)
        every = frozenset(scene.snapshot.of(ENDPOINT))
        scene.envoys.report("one", LoadReport(scene.clock.now(), {}, every))
        await scene.clock.advance(PACE)
        assert scene.kept()


async def test_a_published_cluster_is_not_an_inherited_one() -> None:
    async with running(BEFORE, NAME) as scene:
        assert scene.stream.ads.inherited == frozenset()


async def test_a_report_from_before_a_second_release_ended_does_not_count_for_it() -> None:
    def two(first: TrafficPolicy, second: TrafficPolicy) -> Catalog:
        others = replace(A, id="c", address="10.0.1.1"), replace(B, id="d", address="10.0.1.2")
        [one] = catalog(first).services
        [other] = catalog(second, *others, name="other").services
        return Catalog((one, replace(other, leader=Leader("c", 1))))

    second = release_cluster("other")
    async with running(two(RELEASED, RELEASED)) as scene:
        scene.catalog.set(two(DEFAULTS, RELEASED))
        await scene.clock.advance(0.2)
        scene.confirm()
        await scene.clock.advance(1.0)
        every = frozenset(scene.snapshot.of(ENDPOINT))
        scene.envoys.report("one", LoadReport(scene.clock.now(), {PLACE: 1}, every))
        await scene.clock.advance(PACE / 3)  # the report has been read, for the first one
        scene.catalog.set(two(DEFAULTS, DEFAULTS))
        await scene.clock.advance(PACE / 3)
        scene.confirm()
        await scene.clock.advance(PACE)
        assert second in scene.snapshot.of(CLUSTER)
        scene.envoys.report("one", LoadReport(scene.clock.now() + 1.0, {PLACE: 1}, every))
        await scene.clock.advance(PACE)
        assert second not in scene.snapshot.of(CLUSTER)
        assert scene.kept()


async def test_routes_to_a_former_release_do_not_acknowledge_a_primary() -> None:
    async with running() as scene:
        scene.catalog.set(AFTER)
        await scene.clock.advance(0.1)
        scene.confirm()
        [service] = AFTER.services
        now = Catalog((replace(service, leader=Leader("b", 2)),))
        scene.catalog.set(now)
        await scene.clock.advance(0.1)

        def acknowledged() -> int:
            streams = [scene.stream.ads]
            return primary_status("triton", now, scene.snapshot, streams, 0).acknowledged

        assert scene.kept()
        assert acknowledged() == 0
        scene.confirm()
        assert acknowledged() == 1


def test_former_clusters_count_for_the_retry_memory() -> None:
    limited = replace(DEFAULTS, limits=Limits(retry_memory_bytes=2**30))
    lingering = {NAME: FormerCluster("triton", NAME, replace(RELEASED, limits=limited.limits))}
    [cluster] = clusters(catalog(limited), quarantine=EDGE.quarantine > 0)
    alone, with_former = (
        build(catalog(limited), EDGE, each).of(RUNTIME) for each in ({}, lingering)
    )
    key = f"circuit_breakers.{cluster}.default.max_requests"
    found = []
    for resources in (alone, with_former):
        [resource] = resources.values()
        runtime = rtds_pb2.Runtime()
        resource.body.Unpack(runtime)
        found.append(runtime.layer[key] + runtime.layer[key.replace("max_", "max_pending_")])
    assert found[1] <= (found[0] + 1) / 2


async def test_it_stays_while_an_envoy_is_absent() -> None:
    async with running() as scene:
        scene.catalog.set(AFTER)
        await scene.clock.advance(0.1)
        scene.confirm()
        scene.envoys.remove(scene.stream)
        await scene.clock.advance(ABSENCE - 0.5)
        assert scene.kept()
        await scene.clock.advance(1.0)
        assert not scene.kept()


async def test_it_does_not_change_with_the_catalog() -> None:
    async with running() as scene:
        scene.catalog.set(AFTER)
        await scene.clock.advance(0.1)
        before = scene.snapshot.of(CLUSTER)[NAME]
        scene.catalog.set(catalog(DEFAULTS, replace(A, weight=7), B))
        await scene.clock.advance(0.1)
        assert scene.snapshot.of(CLUSTER)[NAME] == before
        scene.catalog.set(BEFORE)
        await scene.clock.advance(0.1)
        assert scene.publication.lingering.value == {}
        assert scene.snapshot.of(CLUSTER)[NAME] == before
