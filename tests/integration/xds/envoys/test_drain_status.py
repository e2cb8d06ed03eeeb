"""Requests in flight on a withdrawn host, and how a real Envoy reports them.

Envoy does not end them, and reports the load of each cluster that it has.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import grpc
import pytest

from sidecar.control_planes.watch import PlaneDirectory
from sidecar.election.role.promotion import ColdModels, Phase, Promotion, PromotionCells
from sidecar.election.rules import PromotionRules
from sidecar.registry.drain import wait_until_idle
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.latest import Latest
from sidecar.traffic.policy import Affinity, Limits, Mode, OutlierDetection, TrafficPolicy
from sidecar.triton.api import IndexEntry
from sidecar.xds.catalog.catalog import Health
from sidecar.xds.config import clusters
from sidecar.xds.server import LOAD_INTERVAL
from tests.support.consul_model import FakeConsul
from tests.support.soak import soak
from tests.support.xds.control_plane import SERVICE, UNHURRIED, ControlPlane
from tests.support.xds.grpc_clients import Load
from tests.support.xds.waiting import PATIENCE, eventually
from tests.support.xds.xds_rig import Rig

pytestmark = pytest.mark.integration

# How Envoy learns of it: from its health check, or from EDS.
FAILS, UNHEALTHY, REMOVED = "fails", "unhealthy", "removed"


@pytest.fixture
def close_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clusters with `close_connections_on_host_health_failure`, and UNHEALTHY draining hosts."""
    of_cluster, of_endpoints = clusters.cluster, clusters.load_assignment

    def cluster(*given: Any, **named: Any) -> Any:
        message = deepcopy(of_cluster(*given, **named))
        message.close_connections_on_host_health_failure = True
        return message

    def load_assignment(*given: Any) -> Any:
        message = of_endpoints(*given)
        for locality in message.endpoints:
            for endpoint in locality.lb_endpoints:
                if endpoint.health_status == 3:  # DRAINING
                    endpoint.health_status = 2  # UNHEALTHY
        return message

    monkeypatch.setattr(clusters, "cluster", cluster)
    monkeypatch.setattr(clusters, "load_assignment", load_assignment)


@pytest.mark.usefixtures("close_connections")
@pytest.mark.parametrize("how", [FAILS, UNHEALTHY, REMOVED])
async def test_a_withdrawn_host_keeps_its_requests_in_flight(how: str) -> None:
    async with Rig.running("DELTA_GRPC") as rig:
        stream = rig.client.stream(timeout=PATIENCE)
        await stream.write(b"2")
        assert await stream.read() == b"a:0"
        rig.a.hang = True
        request = asyncio.create_task(rig.client.answered_by())
        await eventually(lambda: rig.a.asked, "the request is in flight")
        if how == FAILS:
            rig.a.serving = False
        elif how == UNHEALTHY:
            rig.control_plane.publish(rig.a.instance(draining=True), rig.b.instance(), leader="a")
        else:
            rig.control_plane.publish(rig.b.instance(), leader="b")
        await eventually(lambda: _asked_elsewhere(rig), "new requests go elsewhere")
        await rig.client.count(20)
        assert not request.done()
        rig.a.hang = False
        rig.a.gate.set()
        assert await request == "a"
        assert await stream.read() == b"a:1"
        await stream.done_writing()
        assert await stream.code() == grpc.StatusCode.OK


async def _asked_elsewhere(rig: Rig) -> bool:
    """Whether the other instance answers a new request; one that hangs is cancelled."""
    try:
        async with asyncio.timeout(0.5):
            return await rig.client.answered_by() == "b"
    except TimeoutError:
        return False


# Policies that make Envoy replace a cluster.
CHANGES = {
    "health check": replace(UNHURRIED, health_check=replace(UNHURRIED.health_check, interval=0.7)),
    "ejection": replace(
        UNHURRIED, outlier_detection=OutlierDetection(consecutive_local_origin_failure=9)
    ),
    "connection": replace(UNHURRIED, connection=replace(UNHURRIED.connection, connect_timeout=3.3)),
    "balancing": replace(UNHURRIED, affinity=Affinity(header="x-session")),
    "slow start": replace(UNHURRIED, limits=Limits(slow_start=1.0)),
    "weighted": replace(UNHURRIED, mode=Mode.WEIGHTED, weights=(("a", 1), ("b", 1))),
}


@pytest.fixture(params=["DELTA_GRPC", pytest.param("GRPC", marks=soak)])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    async with Rig.running(request.param) as running:
        yield running


async def begin_stream(rig: Rig) -> Any:
    """A stream that the first instance has answered once, and keeps open."""
    stream = rig.client.stream(timeout=PATIENCE)
    await stream.write(b"2")
    assert await stream.read() == b"a:0"
    return stream


async def end_stream(rig: Rig, stream: Any) -> None:
    rig.a.gate.set()
    assert await stream.read() == b"a:1"
    await stream.done_writing()
    assert await stream.code() == grpc.StatusCode.OK


async def idle(rig: Rig) -> None:
    """Wait until the first instance is idle, as its sidecar does."""
    consul = FakeConsul()
    await consul.register_service(
        {"ID": "xds-0", "Name": "xds", "Address": "127.0.0.1", "Port": rig.xds_port}
    )
    register = PlaneDirectory(consul, "xds", SERVICE)
    await wait_until_idle(register, SERVICE, "a", SystemClock(), lambda why: None)


async def only_the_stream_is_left(drain: Callable[[], Any]) -> None:
    """Wait until the drain waits only for one stream of one Envoy, which has reported."""

    def seen() -> bool:
        said = drain()
        return bool(said.envoys == said.envoys_acknowledged == said.envoys_reported == 1)

    await eventually(seen, "the only Envoy has reported")
    await asyncio.sleep(3 * LOAD_INTERVAL)
    assert seen()
    assert drain().requests_in_flight == 1


def withdraw(rig: Rig, policy: TrafficPolicy) -> None:
    draining = rig.a.instance(draining=True)
    rig.control_plane.publish(draining, rig.b.instance(), leader="b", policy=policy)


async def only_current_clusters_are_left(rig: Rig) -> None:
    """Wait until the former clusters are removed, from Envoy too."""

    async def gone() -> bool:
        former = rig.control_plane.publication.lingering.value
        page = json.loads(await rig.envoy.get("/clusters?format=json"))
        names = [each["name"] for each in page["cluster_statuses"]]
        return not former and len([name for name in names if name.startswith(SERVICE)]) == 1

    await eventually(gone, "former clusters are gone")


@pytest.mark.parametrize(
    ("rig", "what"),
    [
        *(("DELTA_GRPC", what) for what in CHANGES),
        *(pytest.param("GRPC", what, marks=soak) for what in CHANGES),
    ],
    indirect=["rig"],
)
async def test_a_drain_counts_requests_from_before_a_policy_change(rig: Rig, what: str) -> None:
    stream, policy = await begin_stream(rig), CHANGES[what]
    rig.both(leader="a", policy=policy)
    await rig.settled()
    async with rig.drain_of("a") as drain:
        withdraw(rig, policy)
        draining = asyncio.create_task(idle(rig))
        await only_the_stream_is_left(drain)
        assert await rig.client.answered_by() == "b"
        assert not draining.done()
    await end_stream(rig, stream)
    await asyncio.wait_for(draining, PATIENCE)
    await only_current_clusters_are_left(rig)


@pytest.mark.parametrize("rig", ["DELTA_GRPC", "GRPC"], indirect=True)
async def test_a_drain_counts_requests_from_several_policies_ago(rig: Rig) -> None:
    stream = await begin_stream(rig)
    load = Load(rig.client, 4)
    for policy in (*CHANGES.values(), UNHURRIED, CHANGES["connection"]):
        rig.both(leader="a", policy=policy)
        await rig.settled()
        await load.more(20)
    async with rig.drain_of("a") as drain:
        withdraw(rig, CHANGES["connection"])
        draining = asyncio.create_task(idle(rig))
        await load.more(200, by="b")
        await only_the_stream_is_left(drain)
        assert not draining.done()
    await end_stream(rig, stream)
    await asyncio.wait_for(draining, PATIENCE)
    await only_current_clusters_are_left(rig)
    await load.stop()
    assert load.failures == []


async def test_a_drain_counts_requests_from_before_a_restart_of_the_control_plane() -> None:
    """It no longer has the former cluster, but Envoy reports it in this variant of the protocol."""
    async with Rig.running("DELTA_GRPC") as rig:
        stream, policy = await begin_stream(rig), CHANGES["connection"]
        rig.both(leader="a", policy=policy)
        await rig.settled()
        await rig.control_plane.stop()
        rig.control_plane = ControlPlane(rig.edge)
        rig.both(leader="a", policy=policy)
        assert await rig.control_plane.start(rig.xds_port) == rig.xds_port
        async with rig.drain_of("a") as drain:
            withdraw(rig, policy)
            draining = asyncio.create_task(idle(rig))
            await only_the_stream_is_left(drain)
            assert await rig.client.answered_by() == "b"
            assert not draining.done()
        await end_stream(rig, stream)
        await asyncio.wait_for(draining, PATIENCE)
        await only_current_clusters_are_left(rig)


async def test_a_policy_change_without_requests_in_flight_leaves_no_cluster(rig: Rig) -> None:
    assert await rig.client.answered_by() == "a"
    rig.both(leader="a", policy=CHANGES["connection"])
    await only_current_clusters_are_left(rig)
    withdraw(rig, CHANGES["connection"])
    await asyncio.wait_for(idle(rig), PATIENCE)


async def test_statistics_continue_across_policies(rig: Rig) -> None:
    """Failures are counted by these statistics."""
    await rig.client.count(5)
    rig.both(leader="a", policy=CHANGES["connection"])
    await rig.settled()
    await rig.client.count(5)
    assert await rig.envoy.stat(f"cluster.{SERVICE}.grpc.success") == 10


async def test_a_cold_standby_unloads_only_after_its_requests_in_flight(rig: Rig) -> None:
    """It loses the role after a policy has changed."""
    stream, policy = await begin_stream(rig), CHANGES["health check"]
    triton, holds = Unloading(), Latest(True)
    promotion = Promotion(
        ColdModels(
            triton=triton,  # type: ignore[arg-type]
            names=("m",),
            ask=lambda: asyncio.sleep(0),
            verify=lambda: asyncio.sleep(0, ""),
            idle=lambda: idle(rig),
            unloaded=lambda: None,
        ),
        PromotionCells(holds, Latest(True), Latest(False), Latest(0)),
        PromotionRules(unload=True),
        clock=SystemClock(),
        hook=lambda event: None,
    )
    task = asyncio.create_task(promotion.run())
    await eventually(lambda: promotion.phase.value is Phase.WARM, "it serves")
    rig.both(leader="a", policy=policy)
    await rig.settled()
    holds.set(False)
    rig.control_plane.publish(
        rig.a.instance(health=Health.CRITICAL), rig.b.instance(), leader="b", policy=policy
    )
    await eventually(lambda: promotion.phase.value is Phase.COLD, "it is cold")
    async with rig.drain_of("a") as drain:
        await only_the_stream_is_left(drain)
    assert await rig.client.answered_by() == "b"
    assert triton.unloads == []
    await end_stream(rig, stream)
    await eventually(lambda: triton.unloads == ["m"], "it has unloaded")
    task.cancel()


class Unloading:
    """A Triton with one model, which records unloads."""

    def __init__(self) -> None:
        self.unloads: list[str] = []

    async def repository_index(self, timeout: float) -> tuple[IndexEntry, ...]:
        return (IndexEntry("m", "1", "READY", ""),)

    async def unload_model(self, model: str, timeout: float) -> None:
        self.unloads.append(model)
