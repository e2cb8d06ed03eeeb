"""Requests in flight on the cluster of a release, as a real Envoy reports them."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest

from sidecar.traffic.policy import Limits, Release, TrafficPolicy
from sidecar.xds.catalog.catalog import Health
from sidecar.xds.config.cluster_names import generation
from sidecar.xds.config.endpoints import release_cluster
from tests.support.soak import soak
from tests.support.xds.control_plane import SERVICE, UNHURRIED
from tests.support.xds.waiting import PATIENCE, eventually
from tests.support.xds.xds_rig import Rig

pytestmark = pytest.mark.integration
RELEASED = replace(UNHURRIED, release=Release(tag="new", percent=100))


@pytest.fixture(params=["DELTA_GRPC", pytest.param("GRPC", marks=soak)])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    async with Rig.running(request.param) as running:
        yield running


def publish(rig: Rig, policy: TrafficPolicy, **changes: Any) -> None:
    """Publish `a`, and `b` as the release."""
    new = rig.b.instance(tags=("new",), **changes)
    rig.control_plane.publish(rig.a.instance(), new, leader="a", policy=policy)


async def stream_on_the_release(rig: Rig, policy: TrafficPolicy = RELEASED) -> Any:
    """A stream on `b` through the cluster of the release, which stays open."""
    publish(rig, policy)
    await rig.settled(cluster=release_cluster(SERVICE))
    await eventually(lambda: _goes_to(rig, "b"), "the release gets its share")
    call = rig.client.stream(timeout=PATIENCE)
    await call.write(b"2")
    assert await call.read() == b"b:0"
    return call


async def end(rig: Rig, call: Any) -> None:
    rig.b.gate.set()
    assert await call.read() == b"b:1"
    await call.done_writing()
    assert await call.code() == grpc.StatusCode.OK


async def test_a_drain_counts_requests_in_flight_on_an_ended_release(rig: Rig) -> None:
    call = await stream_on_the_release(rig)
    publish(rig, UNHURRIED)
    await eventually(lambda: _goes_to(rig, "a"), "the release has ended")
    await rig.settled()
    async with rig.drain_of("b") as status:
        publish(rig, UNHURRIED, draining=True, health=Health.CRITICAL)
        await eventually(lambda: status().envoys_reported == 1, "Envoy has reported")
        assert status().requests_in_flight == 1
        await end(rig, call)
        await eventually(lambda: _over(status()), "the drain is over")
    stable = SERVICE + generation(UNHURRIED, quarantine=rig.edge.quarantine > 0)
    await eventually(lambda: _clusters(rig, [stable]), "the cluster goes when it is empty")


async def test_a_release_that_returns_keeps_its_cluster(rig: Rig) -> None:
    call = await stream_on_the_release(rig)
    for policy, instance in ((UNHURRIED, "a"), (RELEASED, "b")):
        publish(rig, policy)
        await eventually(lambda at=instance: _goes_to(rig, at), "the policy is in force")  # type: ignore[misc]
    await rig.settled()
    async with rig.drain_of("b") as status:
        publish(rig, RELEASED, draining=True, health=Health.CRITICAL)
        await eventually(lambda: status().envoys_reported == 1, "Envoy has reported")
        assert status().requests_in_flight == 1
        await end(rig, call)
        await eventually(lambda: _over(status()), "the drain is over")


async def test_the_end_of_a_release_does_not_replace_the_cluster_of_the_others(rig: Rig) -> None:
    """A new cluster would hide its requests in flight."""
    limits = Limits(retry_memory_bytes=2**30, retry_body_bytes=2**20)
    stable = replace(UNHURRIED, limits=limits)
    publish(rig, stable)
    await rig.settled()
    call = rig.client.stream(timeout=PATIENCE)
    await call.write(b"2")
    assert await call.read() == b"a:0"
    for release in (Release(tag="new", percent=100), None):
        publish(rig, replace(stable, release=release))
        at = "b" if release else "a"
        await eventually(lambda at=at: _goes_to(rig, at), "the policy is in force")  # type: ignore[misc]
    await rig.settled()
    async with rig.drain_of("a") as status:
        gone = rig.a.instance(draining=True, health=Health.CRITICAL)
        rig.control_plane.publish(gone, rig.b.instance(tags=("new",)), leader="b", policy=stable)
        await eventually(lambda: status().envoys_reported == 1, "Envoy has reported")
        assert status().requests_in_flight == 1
        rig.a.gate.set()
        assert await call.read() == b"a:1"
        await call.done_writing()
        await eventually(lambda: _over(status()), "the drain is over")


async def _goes_to(rig: Rig, instance: str) -> bool:
    return set(await rig.client.count(20)) == {instance}


async def _clusters(rig: Rig, names: list[str]) -> bool:
    found = await rig.envoy.get("/clusters")
    return sorted({line.partition("::")[0] for line in found.splitlines()} - {"control_plane"}) == (
        names
    )


def _over(status: Any) -> bool:
    return bool(
        status.envoys == status.envoys_acknowledged == status.envoys_reported == 1
        and status.requests_in_flight == 0
    )
