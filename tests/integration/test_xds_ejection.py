"""Whom a real Envoy avoids for lost connections, and nobody for answers or as the last good one."""

from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import grpc
import grpc.aio
import pytest

from sidecar.traffic.policy import Locality, Mode, OutlierDetection, Release, TrafficPolicy
from sidecar.xds.catalog import Health
from sidecar.xds.endpoints import release_cluster
from tests.integration.xds_rig import SERVICE, UNHURRIED, FakeTriton, Rig, eventually

pytestmark = pytest.mark.integration

# Whoever is avoided stays so for as long as a test takes.
LASTING = replace(
    UNHURRIED, outlier_detection=OutlierDetection(base_ejection_time=600.0, max_ejection_time=600.0)
)
CRITICAL: dict[str, Any] = {"health": Health.CRITICAL}
DRAINING: dict[str, Any] = {"draining": True}


@dataclass
class Scene:
    """A rig with four Tritons."""

    rig: Rig
    tritons: dict[str, FakeTriton]

    async def publish(self, policy: TrafficPolicy = LASTING, **how: dict[str, Any]) -> None:
        """Say how some of them are, with `a` as the leader, and wait until Envoy has it all."""
        listed = [self.tritons[name].instance(**facts) for name, facts in how.items()]
        self.rig.control_plane.publish(*listed, leader="a", policy=policy)
        await eventually(lambda: not self.rig.control_plane.busy, "Envoy has taken it")
        await eventually(self._answered, "somebody answers")

    async def fail(self, name: str, cluster: str = SERVICE) -> None:
        """Have one refuse connections until Envoy has noticed; then it does well again."""
        noticed = "ejections_detected_consecutive_local_origin_failure"
        before = await self.count(noticed, cluster)
        self.tritons[name].wire.cut()
        while await self.count(noticed, cluster) == before:
            with suppress(grpc.aio.AioRpcError):
                await self.rig.client.who()
        await self.tritons[name].wire.mend()

    async def count(self, what: str, cluster: str = SERVICE) -> int:
        """One of Envoy's counters of a cluster's outlier detection."""
        return await self.rig.envoy.stat(f"cluster.{cluster}.outlier_detection.{what}")

    async def ejected(self, cluster: str = SERVICE) -> int:
        """How many are avoided now."""
        return await self.count("ejections_active", cluster)

    async def _answered(self) -> bool:
        with suppress(grpc.aio.AioRpcError):
            return bool(await self.rig.client.who())
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
async def test_the_last_good_one_is_never_avoided(
    scene: Scene, policy: TrafficPolicy, last: str, how: dict[str, dict[str, Any]]
) -> None:
    await scene.publish(policy, **how)
    await scene.fail(last)
    assert await scene.count("ejections_enforced_total") == 0
    assert set(await scene.rig.client.count(20)) == {last}


async def test_nor_by_either_side_of_a_release(scene: Scene) -> None:
    for percent, cluster in ((100, release_cluster(SERVICE)), (0, SERVICE)):
        policy = replace(LASTING, release=Release(tag="v2", percent=percent))
        await scene.publish(policy, a=CRITICAL, b={"tags": ("v2",)})
        await scene.fail("b", cluster)
        assert await scene.count("ejections_enforced_total", cluster) == 0
        assert set(await scene.rig.client.count(20)) == {"b"}


async def test_while_others_are_good_one_that_fails_is_avoided(scene: Scene) -> None:
    await scene.publish(a={}, b={}, c=CRITICAL)
    await scene.fail("a")
    assert await scene.ejected() == 1
    assert set(await scene.rig.client.count(20)) == {"b"}
    await scene.fail("b")  # it is the last one
    assert await scene.ejected() == 1
    assert set(await scene.rig.client.count(20)) == {"b"}


async def test_of_two_good_ones_among_four_one_may_be_avoided(scene: Scene) -> None:
    await scene.publish(mode(Mode.ACTIVE_ACTIVE), a={}, b={}, c=DRAINING, d=CRITICAL)
    await scene.fail("a")
    await scene.fail("b")
    assert await scene.ejected() == 1
    assert set(await scene.rig.client.count(20)) == {"b"}


async def test_it_follows_who_is_withdrawn_without_a_new_cluster(scene: Scene) -> None:
    await scene.publish(a={}, b={})
    clusters = await scene.rig.envoy.stat("cluster_manager.cluster_modified")
    await scene.publish(a={}, b=CRITICAL)
    await scene.fail("a")
    assert await scene.count("ejections_enforced_total") == 0
    await scene.publish(a={}, b={})
    await scene.fail("a")
    assert await scene.ejected() == 1
    assert set(await scene.rig.client.count(20)) == {"b"}
    assert await scene.rig.envoy.stat("cluster_manager.cluster_modified") == clusters


async def test_one_that_is_avoided_is_taken_back_when_it_is_the_last(scene: Scene) -> None:
    await scene.publish(a={}, b={})
    await scene.fail("a")
    assert await scene.ejected() == 1
    await scene.publish(a={}, b=DRAINING)
    assert await scene.ejected() == 0
    assert set(await scene.rig.client.count(20)) == {"a"}
