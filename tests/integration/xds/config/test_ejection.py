"""A real Envoy ejects hosts for lost connections, not for answers, and never the last one."""

import asyncio
from asyncio import FIRST_COMPLETED
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import grpc
import grpc.aio
import pytest

from sidecar.traffic.policy import Limits, Locality, Mode, OutlierDetection, Release, TrafficPolicy
from sidecar.xds.catalog.catalog import Health
from sidecar.xds.config.endpoints import release_cluster
from tests.support.xds.control_plane import SERVICE, UNHURRIED
from tests.support.xds.fake_tritons import FakeTriton
from tests.support.xds.raw_client import resetting
from tests.support.xds.waiting import PATIENCE, eventually
from tests.support.xds.xds_rig import Rig

pytestmark = pytest.mark.integration

# An ejection lasts longer than a test.
LASTING = replace(
    UNHURRIED, outlier_detection=OutlierDetection(base_ejection_time=600.0, max_ejection_time=600.0)
)
CRITICAL: dict[str, Any] = {"health": Health.CRITICAL}
DRAINING: dict[str, Any] = {"draining": True}
DETECTED = "ejections_detected_consecutive_local_origin_failure"
LOST = f"cluster.{SERVICE}.upstream_cx_destroy"


@dataclass
class Scene:
    """A rig with four Tritons."""

    rig: Rig
    tritons: dict[str, FakeTriton]

    async def publish(self, policy: TrafficPolicy = LASTING, **how: dict[str, Any]) -> None:
        """Publish these instances, with `a` as the leader, and wait until Envoy has everything."""
        listed = [self.tritons[name].instance(**facts) for name, facts in how.items()]
        self.rig.control_plane.publish(*listed, leader="a", policy=policy)
        await eventually(lambda: not self.rig.control_plane.busy, "Envoy has taken it")
        await eventually(self.answered, "a request is answered")

    async def fail(self, name: str, cluster: str = SERVICE) -> None:
        """Refuse connections to one until Envoy has detected it; then accept them again."""
        before = await self.count(DETECTED, cluster)
        self.tritons[name].wire.cut()
        while await self.count(DETECTED, cluster) == before:
            with suppress(grpc.aio.AioRpcError):
                await self.rig.client.answered_by()
        await self.tritons[name].wire.restore()

    async def count(self, what: str, cluster: str = SERVICE) -> int:
        """One of Envoy's counters of a cluster's outlier detection."""
        return await self.rig.envoy.stat(f"cluster.{cluster}.outlier_detection.{what}")

    async def ejected(self, cluster: str = SERVICE) -> int:
        """The number of hosts that are ejected now."""
        return await self.count("ejections_active", cluster)

    async def lost_more(self, than: int) -> bool:
        """Whether Envoy has counted more lost connections."""
        return await self.rig.envoy.stat(LOST) > than

    async def answered(self) -> bool:
        """Whether a request is answered."""
        with suppress(grpc.aio.AioRpcError):
            return bool(await self.rig.client.answered_by())
        return False


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with Rig.running("DELTA_GRPC") as rig:
        joined = await rig.join("c", "d")
        yield Scene(rig, {each.name: each for each in (rig.a, rig.b, *joined)})


def mode(name: Mode, **changes: object) -> TrafficPolicy:
    return replace(LASTING, mode=name, **changes)  # type: ignore[arg-type]


REMOTE = replace(LASTING, locality=Locality(datacenters=("dc2",)))


@pytest.mark.parametrize(
    ("policy", "last", "how"),
    [
        (LASTING, "a", {"a": {}, "b": CRITICAL}),
        (LASTING, "b", {"a": DRAINING, "b": {}}),
        (LASTING, "a", {"a": {}, "b": CRITICAL, "c": DRAINING, "d": CRITICAL}),
        (mode(Mode.ACTIVE_ACTIVE), "b", {"a": CRITICAL, "b": {}}),
        (mode(Mode.WEIGHTED, weights=(("a", 1), ("b", 3))), "b", {"a": DRAINING, "b": {}}),
        (mode(Mode.STRICT), "a", {"a": {}, "b": {}}),
        (REMOTE, "b", {"a": CRITICAL, "b": {"datacenter": "dc2"}}),
        (REMOTE, "a", {"a": {}, "b": {"datacenter": "dc2", **CRITICAL}}),
    ],
    ids=["primary", "standby", "of four", "active-active", "weighted", "strict", "dc2", "no dc2"],
)
async def test_the_last_usable_host_is_never_ejected(
    scene: Scene, policy: TrafficPolicy, last: str, how: dict[str, dict[str, Any]]
) -> None:
    await scene.publish(policy, **how)
    await scene.fail(last)
    assert await scene.count("ejections_enforced_total") == 0
    assert set(await scene.rig.client.count(20)) == {last}


async def test_the_last_usable_host_of_a_release_is_never_ejected(scene: Scene) -> None:
    for percent, cluster in ((100, release_cluster(SERVICE)), (0, SERVICE)):
        policy = replace(LASTING, release=Release(tag="v2", percent=percent))
        await scene.publish(policy, a=CRITICAL, b={"tags": ("v2",)})
        await scene.fail("b", cluster)
        assert await scene.count("ejections_enforced_total", cluster) == 0
        assert set(await scene.rig.client.count(20)) == {"b"}


async def test_a_failing_host_is_ejected_while_others_are_usable(scene: Scene) -> None:
    await scene.publish(a={}, b={}, c=CRITICAL)
    await scene.fail("a")
    assert await scene.ejected() == 1
    assert set(await scene.rig.client.count(20)) == {"b"}
    await scene.fail("b")  # it is the last host
    assert await scene.ejected() == 1
    assert set(await scene.rig.client.count(20)) == {"b"}


async def test_of_two_usable_hosts_among_four_one_is_ejected(scene: Scene) -> None:
    await scene.publish(mode(Mode.ACTIVE_ACTIVE), a={}, b={}, c=DRAINING, d=CRITICAL)
    await scene.fail("a")
    await scene.fail("b")
    assert await scene.ejected() == 1
    assert set(await scene.rig.client.count(20)) == {"b"}


async def test_the_limit_follows_withdrawals_without_a_new_cluster(scene: Scene) -> None:
    await scene.publish(a={}, b={})
    clusters = await scene.rig.envoy.stat("cluster_manager.cluster_added")
    await scene.publish(a={}, b=CRITICAL)
    await scene.fail("a")
    assert await scene.count("ejections_enforced_total") == 0
    await scene.publish(a={}, b={})
    await scene.fail("a")
    assert await scene.ejected() == 1
    assert set(await scene.rig.client.count(20)) == {"b"}
    assert await scene.rig.envoy.stat("cluster_manager.cluster_added") == clusters


async def test_an_ejected_host_is_used_again_when_it_is_the_last(scene: Scene) -> None:
    await scene.publish(a={}, b={})
    await scene.fail("a")
    assert await scene.ejected() == 1
    await scene.publish(a={}, b=DRAINING)
    assert await scene.ejected() == 0
    assert set(await scene.rig.client.count(20)) == {"a"}


async def test_requests_above_the_limit_in_flight_eject_no_host(scene: Scene) -> None:
    """Cancelling the requests ejects none either."""
    await scene.publish(replace(LASTING, limits=Limits(max_requests=4)), a={}, b={})
    scene.tritons["a"].hang = scene.tritons["b"].hang = True
    calls = [scene.rig.client.infer(b"x", timeout=PATIENCE) for _ in range(32)]
    done, _ = await asyncio.wait(
        [asyncio.ensure_future(call.code()) for call in calls], return_when=FIRST_COMPLETED
    )
    assert {each.result() for each in done} == {grpc.StatusCode.UNAVAILABLE}
    for call in calls:
        call.cancel()
    scene.tritons["a"].hang = scene.tritons["b"].hang = False
    await eventually(scene.answered, "a request is answered")
    assert await scene.count(DETECTED) == 0


async def test_lost_idle_connections_eject_no_host(scene: Scene) -> None:
    await scene.publish(a={}, b={})
    for _ in range(10):
        assert await scene.rig.client.answered_by() == "a"
        lost = await scene.rig.envoy.stat(LOST)
        scene.tritons["a"].wire.drop()
        await eventually(partial(scene.lost_more, lost), "Envoy has counted the lost connection")
    assert await scene.count(DETECTED) == 0


async def test_streams_that_exceed_their_maximum_duration_eject_no_host(scene: Scene) -> None:
    await scene.publish(replace(LASTING, limits=Limits(max_stream_duration=0.5)), a={}, b={})
    for _ in range(2):
        calls = [scene.rig.client.stream(iter([b"2"]), timeout=PATIENCE) for _ in range(8)]
        assert {await call.read() for call in calls} == {b"a:0"}  # the second is never sent
        codes = await asyncio.gather(*(call.code() for call in calls))
        assert grpc.StatusCode.OK not in codes
    assert await scene.count(DETECTED) == 0


async def test_streams_that_a_server_resets_eject_it(scene: Scene) -> None:
    async with await asyncio.start_server(resetting, "127.0.0.1", 0) as server:
        scene.tritons["a"].port = server.sockets[0].getsockname()[1]
        await scene.publish(a={}, b={})
        # Each new stream resets the count, so the streams have to overlap.
        answers = await asyncio.gather(*(scene.rig.client.answered_by() for _ in range(64)))
        assert set(answers) == {"b"}
        assert await scene.count(DETECTED) >= 1


async def test_a_frozen_host_with_requests_in_flight_is_ejected(scene: Scene) -> None:
    """It does not answer pings, like an instance on an overloaded machine."""
    pinging = replace(LASTING.connection, keepalive_timeout=1.0)
    await scene.publish(replace(LASTING, connection=pinging), a={}, b={})
    scene.tritons["a"].wire.frozen = True
    calls = [scene.rig.client.infer(b"x", timeout=PATIENCE) for _ in range(8)]
    assert {(await call).partition(b":")[0] for call in calls} == {b"b"}
    assert await scene.count(DETECTED) >= 1
    scene.tritons["a"].wire.frozen = False
