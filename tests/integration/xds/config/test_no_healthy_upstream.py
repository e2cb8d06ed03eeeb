"""Mode strict on a real Envoy: without a primary, requests wait for a moment and then fail."""

from collections.abc import AsyncIterator
from dataclasses import replace

import grpc
import grpc.aio
import pytest

from sidecar.traffic.policy import Limits, Mode, Retry, TrafficPolicy
from sidecar.xds.catalog.catalog import Health
from sidecar.xds.quarantine.suspects import PROOF
from tests.support.xds.control_plane import SERVICE, UNHURRIED
from tests.support.xds.fake_tritons import FakeTriton
from tests.support.xds.grpc_clients import Load
from tests.support.xds.query_of_death import POISON, crash_scene
from tests.support.xds.waiting import PATIENCE, eventually
from tests.support.xds.xds_rig import Rig

pytestmark = pytest.mark.integration
STRICT = replace(UNHURRIED, mode=Mode.STRICT)
NOT_IDEMPOTENT = replace(STRICT, retry=Retry(idempotent=False))
# Retry memory for 64 bodies: 16 may be in flight, or 8 while a former cluster lingers.
LITTLE_MEMORY = replace(STRICT, limits=Limits(retry_memory_bytes=1 << 30, retry_body_bytes=1 << 24))
RETRIES = f"cluster.{SERVICE}.upstream_rq_retry"
NO_PRIMARY = "StatusCode.UNAVAILABLE: no healthy upstream: there is no primary that serves"


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with Rig.running("DELTA_GRPC") as running:
        running.b.serving = False
        running.both(leader="a", policy=STRICT)
        await running.settled(1)
        yield running


async def stop_serving(rig: Rig, old: FakeTriton) -> None:
    """Answer NOT_SERVING, as a sidecar does before it releases the role, until Envoy knows."""
    old.serving = False
    await eventually(lambda: rig.reachable(0), "no instance serves")


async def take_over(rig: Rig, new: FakeTriton, epoch: int, policy: TrafficPolicy = STRICT) -> None:
    """Make an instance primary and SERVING, once a request waits for it."""
    before = await rig.envoy.stat(RETRIES)

    async def request_waits() -> bool:
        return await rig.envoy.stat(RETRIES) > before

    await eventually(request_waits, "a request that waits")
    new.serving = True
    rig.both(leader=new.name, epoch=epoch, policy=policy)


@pytest.mark.parametrize(
    ("clients", "policy"),
    [(16, STRICT), (64, STRICT), (16, NOT_IDEMPOTENT), (8, LITTLE_MEMORY)],
    ids=["16", "64", "effects", "little memory"],
)
async def test_a_move_of_the_role_fails_no_request(
    rig: Rig, clients: int, policy: TrafficPolicy
) -> None:
    rig.both(leader="a", policy=policy)
    load = Load(rig.client, clients)
    await load.more(50, by="a")
    old, new = rig.a, rig.b
    for turn in range(4):
        await stop_serving(rig, old)
        await take_over(rig, new, 2 + turn, policy)
        await load.more(50, by=new.name)
        old, new = new, old
    await load.stop()
    assert load.failures == []


async def test_a_move_of_the_role_that_the_catalog_shows_first_fails_no_request(rig: Rig) -> None:
    load = Load(rig.client, 16)
    await load.more(50, by="a")
    rig.both(leader="b", epoch=2, policy=STRICT)
    await eventually(lambda: rig.reachable(0), "only one that does not serve yet")
    rig.a.serving, rig.b.serving = False, True
    await load.more(50, by="b")
    await load.stop()
    assert load.failures == []


async def test_new_streams_wait_for_a_primary_too(rig: Rig) -> None:
    await stop_serving(rig, rig.a)
    call = rig.client.stream(timeout=PATIENCE)
    await call.write(b"1")
    await take_over(rig, rig.b, 2)
    assert await call.read() == b"b:0"
    await call.done_writing()
    assert await call.code() == grpc.StatusCode.OK
    assert rig.a.streams == 0


async def test_a_dead_primary_fails_no_request_that_never_reached_it(rig: Rig) -> None:
    load = Load(rig.client, 16)
    await load.more(50, by="a")
    rig.a.wire.cut()
    await stop_serving(rig, rig.a)
    await take_over(rig, rig.b, 2)
    await load.more(50, by="b")
    await load.stop()
    assert load.failures == []


async def test_requests_fail_with_a_reason_if_no_instance_comes_back(rig: Rig) -> None:
    await stop_serving(rig, rig.a)
    served = rig.a.served, rig.b.served
    load = Load(rig.client, 64)
    await eventually(lambda: len(load.failures) >= 256, "each has failed a few times")
    assert set(load.failures) == {NO_PRIMARY}
    outliers = f"cluster.{SERVICE}.outlier_detection"
    assert await rig.envoy.stat(f"{outliers}.ejections_enforced_total") == 0
    assert await rig.envoy.stat(f"{outliers}.ejections_active") == 0
    # The removed primary has no requests in flight, and no other host counts as healthy.
    assert await rig.envoy.stat(f"cluster.{SERVICE}.membership_healthy") == 0
    assert (rig.a.served, rig.b.served) == served
    rig.b.serving = True
    rig.both(leader="b", epoch=2, policy=STRICT)
    await load.more(200, by="b")
    failed = len(load.failures)
    await load.more(200, by="b")
    await load.stop()
    assert len(load.failures) == failed


@pytest.mark.parametrize("instances", ["none", "critical"])
async def test_without_instances_requests_fail_with_the_same_reason(
    rig: Rig, instances: str
) -> None:
    unhealthy = rig.a.instance(health=Health.CRITICAL)
    rig.control_plane.publish(*[unhealthy] * (instances == "critical"), policy=STRICT)
    await rig.settled(0)
    call = rig.client.infer(b"x", timeout=PATIENCE)
    assert f"{await call.code()}: {await call.details()}" == NO_PRIMARY
    rig.both(leader="a", policy=STRICT)
    await rig.settled(1)
    assert await rig.client.answered_by() == "a"


@pytest.mark.parametrize(
    "policy",
    [
        replace(STRICT, retry=Retry(num_retries=0)),
        replace(STRICT, limits=Limits(per_try_idle_timeout=60.0)),
    ],
    ids=["no retries", "per_try_idle_timeout"],
)
async def test_a_request_without_retries_does_not_wait(rig: Rig, policy: TrafficPolicy) -> None:
    rig.both(leader="a", policy=policy)
    await rig.settled(1)
    await stop_serving(rig, rig.a)
    before = await rig.envoy.stat(RETRIES)
    call = rig.client.infer(b"x", timeout=PATIENCE)
    assert f"{await call.code()}: {await call.details()}" == NO_PRIMARY
    assert await rig.envoy.stat(RETRIES) <= before + 1


async def test_a_request_with_a_body_above_the_limit_does_not_wait(rig: Rig) -> None:
    policy = replace(STRICT, limits=Limits(retry_body_bytes=1 << 20))
    rig.both(leader="a", policy=policy)
    await rig.settled(1)
    assert await rig.client.answered_by(bytes(3 << 20)) == "a"
    await stop_serving(rig, rig.a)
    call = rig.client.infer(bytes(3 << 20), timeout=PATIENCE)
    assert f"{await call.code()}: {await call.details()}" == NO_PRIMARY
    attempts = rig.a.asked + rig.b.asked
    rig.b.serving = True
    rig.both(leader="b", epoch=2, policy=policy)
    await rig.settled(1)
    assert rig.a.asked + rig.b.asked == attempts


async def test_a_crashing_request_is_retried_less_often_than_waiting_ones() -> None:
    async with crash_scene(policy=STRICT) as made:
        for name in ("b", "c"):
            del made.tritons[name]
        made.publish()

        attempts = 0

        async def quarantined() -> bool:
            nonlocal attempts
            attempts += 1
            call = made.rig.client.infer(POISON, timeout=PATIENCE)
            return bool(await call.code() == grpc.StatusCode.FAILED_PRECONDITION)

        await eventually(quarantined, "it is known")
        # Two crashes make it a suspect; the time between them is longer than some requests wait.
        assert 2 + PROOF <= made.falls["a"] <= 1 + attempts + PROOF
        assert await made.rig.envoy.stat(RETRIES) > made.falls["a"]
        assert await made.rig.envoy.stat(f"cluster.{SERVICE}.lua.quarantine.errors") == 0
