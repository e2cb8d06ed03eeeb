"""The effects of a traffic policy, as clients of a real Envoy see them."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace

import grpc
import grpc.aio
import pytest

from sidecar.traffic.policy import Affinity, Limits, Locality, Match, Mode, Release, TrafficPolicy
from sidecar.xds.catalog.catalog import Catalog, Health, ServiceCatalog
from sidecar.xds.config.endpoints import release_cluster
from tests.support.xds.control_plane import SERVICE, UNHURRIED
from tests.support.xds.fake_tritons import FakeTriton
from tests.support.xds.grpc_clients import Load
from tests.support.xds.waiting import PATIENCE, eventually
from tests.support.xds.xds_rig import Rig

pytestmark = pytest.mark.integration
RELEASE = release_cluster(SERVICE)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with Rig.running("DELTA_GRPC") as running:
        yield running


@pytest.fixture
async def c(rig: Rig) -> FakeTriton:
    """A third Triton, which is not published yet."""
    [joined] = await rig.join("c")
    return joined


async def publish(
    rig: Rig, *tritons: FakeTriton, policy: TrafficPolicy, leader: str | None = "a"
) -> None:
    """Publish healthy instances, and wait until Envoy has the policy and has checked them."""
    rig.control_plane.publish(
        *(triton.instance() for triton in tritons), leader=leader, policy=policy
    )
    await rig.settled(len(tritons))


def mode(name: Mode, **changes: object) -> TrafficPolicy:
    return replace(UNHURRIED, mode=name, **changes)  # type: ignore[arg-type]


async def test_active_active_shares_the_load_and_fails_no_request(rig: Rig, c: FakeTriton) -> None:
    await publish(rig, rig.a, rig.b, c, policy=mode(Mode.ACTIVE_ACTIVE))
    found = await rig.client.count(300)
    assert set(found) == {"a", "b", "c"}
    assert min(found.values()) > 40
    load = Load(rig.client, clients=16)
    await load.more(100)
    rig.a.wire.cut()
    await load.more(200)
    await load.stop()
    assert load.failures == []


async def test_weights_of_three_two_and_two_share_the_load(rig: Rig, c: FakeTriton) -> None:
    weighted = mode(Mode.WEIGHTED, weights=(("a", 3), ("b", 2), ("c", 2)))
    await publish(rig, rig.a, rig.b, c, policy=weighted)
    found = await rig.client.count(700)
    # Each of the two workers has its own round robin, and a connection stays with one worker.
    assert {name: round(found[name] / 100) for name in "abc"} == {"a": 3, "b": 2, "c": 2}


async def test_an_instance_without_a_weight_is_a_standby(rig: Rig, c: FakeTriton) -> None:
    await publish(rig, rig.a, rig.b, c, policy=mode(Mode.WEIGHTED, weights=(("a", 1), ("b", 1))))
    assert set(await rig.client.count(100)) == {"a", "b"}
    rig.a.wire.cut()
    rig.b.wire.cut()
    assert set(await rig.client.count(20)) == {"c"}


async def test_mode_strict_uses_the_primary_or_no_instance(rig: Rig) -> None:
    rig.both(leader="a", policy=mode(Mode.STRICT))
    await rig.settled(1)  # only the primary counts as healthy
    assert set(await rig.client.count(50)) == {"a"}
    unhealthy = rig.a.instance(health=Health.CRITICAL)
    rig.control_plane.publish(unhealthy, rig.b.instance(), leader="a", policy=mode(Mode.STRICT))

    async def unavailable() -> bool:
        try:
            await rig.client.answered_by()
        except grpc.aio.AioRpcError as error:
            return error.code() == grpc.StatusCode.UNAVAILABLE
        return False

    await eventually(unavailable, "no instance answers")
    served = rig.b.served
    assert all(await asyncio.gather(*(unavailable() for _ in range(20))))  # each waits for a moment
    assert rig.b.served == served == 0


async def test_a_release_gets_its_share_and_ends_without_a_failed_request(
    rig: Rig, c: FakeTriton
) -> None:
    def released(percent: int, rolled_back: str = "") -> TrafficPolicy:
        release = Release(tag="v2", percent=percent, rolled_back=rolled_back)
        return replace(UNHURRIED, release=release)

    def order(policy: TrafficPolicy) -> None:
        new = c.instance(tags=("v2",))
        rig.control_plane.publish(
            rig.a.instance(), rig.b.instance(), new, leader="a", policy=policy
        )

    load = Load(rig.client, clients=8)
    order(released(20))
    await rig.settled(3, RELEASE)
    found = await rig.client.count(500)
    assert set(found) == {"a", "c"}
    assert 60 < found["c"] < 140
    order(released(100))  # promote
    await eventually(lambda: _only(rig, "c"), "all go to the release")
    order(released(30, "by somebody: it is bad"))
    await eventually(lambda: _only(rig, "a"), "none goes to the release")
    for percent in (10, 100, 50, 0):
        order(released(percent))
        await load.more(100)
    order(UNHURRIED)
    await load.more(200)
    await load.stop()
    assert load.failures == []
    # Two are left: ours and control_plane. The release's is removed once no request is in flight.
    await eventually(lambda: _clusters(rig, 2), "the release has no cluster any more")


async def test_requests_of_a_dead_release_are_retried_on_other_instances(
    rig: Rig, c: FakeTriton
) -> None:
    policy = replace(UNHURRIED, release=Release(tag="v2", percent=50))
    new = c.instance(tags=("v2",))
    rig.control_plane.publish(rig.a.instance(), rig.b.instance(), new, leader="a", policy=policy)
    await rig.settled(3, RELEASE)
    load = Load(rig.client, clients=8)
    await load.more(50, by="c")
    c.wire.cut()
    await load.more(200, by="a")
    await load.stop()
    assert load.failures == []


async def test_a_sticky_release_keeps_its_users(rig: Rig, c: FakeTriton) -> None:
    release = Release(tag="v2", percent=50, sticky_header="x-user")
    new = c.instance(tags=("v2",))
    rig.control_plane.publish(
        rig.a.instance(), new, leader="a", policy=replace(UNHURRIED, release=release)
    )
    await rig.settled(2, RELEASE)
    sides = Counter[str]()
    for user in range(60):
        answers = {await rig.client.answered_by(x_user=f"user-{user}") for _ in range(4)}
        assert len(answers) == 1
        sides.update(answers)
    assert min(sides["a"], sides["c"]) > 10


async def test_a_session_stays_on_its_host_and_moves_once(rig: Rig, c: FakeTriton) -> None:
    policy = mode(Mode.ACTIVE_ACTIVE, affinity=Affinity(header="x-session"))
    await publish(rig, rig.a, rig.b, c, policy=policy)
    homes = {}
    for number in range(30):
        answers = await rig.client.count(4, x_session=f"s{number}")
        assert len(answers) == 1
        [homes[number]] = answers
    assert set(homes.values()) == {"a", "b", "c"}
    rig.a.wire.cut()
    rig.a.serving = False
    await eventually(lambda: rig.reachable(2), "one is found unhealthy")
    stayed = 0
    for number, home in homes.items():
        answers = await rig.client.count(4, x_session=f"s{number}")
        assert len(answers) == 1
        assert "a" not in answers
        stayed += home in answers
    # Envoy's ring has a fixed size, so a few sessions of other hosts move as well.
    others = sum(home != "a" for home in homes.values())
    assert stayed > others / 2


async def test_a_request_of_a_sequence_is_never_retried_elsewhere(rig: Rig) -> None:
    policy = mode(Mode.ACTIVE_ACTIVE, affinity=Affinity(sequence_header="x-sequence"))
    await publish(rig, rig.a, rig.b, policy=policy)
    [home] = await rig.client.count(5, x_sequence="7")
    triton, other = (rig.a, rig.b) if home == "a" else (rig.b, rig.a)
    triton.die_on_request = True
    served = other.served
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await rig.client.answered_by(x_sequence="7")
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    assert other.served == served
    triton.die_on_request = True
    while triton.die_on_request:
        assert await rig.client.answered_by() in "ab"  # a request without a sequence is retried


async def test_the_local_zone_is_preferred_and_then_other_datacenters(
    rig: Rig, c: FakeTriton
) -> None:
    locality = Locality(prefer_zone=True, datacenters=("dc2",))
    policy = mode(Mode.ACTIVE_ACTIVE, locality=locality)
    rig.control_plane.publish(
        rig.a.instance(zone="east"),
        rig.b.instance(zone="west"),
        c.instance(datacenter="dc2", zone="east"),
        policy=policy,
        zone="east",
    )
    await rig.settled(3)
    for expected, triton in (("a", rig.a), ("b", rig.b), ("c", c)):
        assert set(await rig.client.count(30)) == {expected}
        triton.wire.cut()
        triton.serving = False


async def test_a_changed_capacity_takes_effect_without_a_new_cluster(rig: Rig) -> None:
    async def admitted(requests: int) -> int:
        """How many of `requests` concurrent requests Envoy admits."""
        overflow = f"cluster.{SERVICE}.upstream_rq_active_overflow"
        refused, before = 0, await rig.envoy.stat(overflow)
        calls = [rig.client.infer(b"x", timeout=PATIENCE) for _ in range(requests)]

        async def all_there() -> bool:
            nonlocal refused
            refused = await rig.envoy.stat(overflow) - before
            active = await rig.envoy.stat(f"cluster.{SERVICE}.upstream_rq_active")
            return active + refused == requests

        await eventually(all_there, "all are in flight or refused")
        rig.a.hang = rig.b.hang = False
        codes = Counter([await call.code() for call in calls])
        assert codes[grpc.StatusCode.UNAVAILABLE] == refused
        return codes[grpc.StatusCode.OK]

    for capacity in (2, 5):
        rig.a.hang = rig.b.hang = True
        rig.control_plane.publish(
            rig.a.instance(capacity=capacity), rig.b.instance(capacity=1), leader="a"
        )
        await rig.settled(2)
        assert await admitted(12) == capacity + 1
    assert await rig.envoy.stat("cluster_manager.cluster_added") == 2  # with the control plane's


async def test_an_attempt_without_an_answer_times_out_and_is_retried_elsewhere(rig: Rig) -> None:
    limits = Limits(per_try_idle_timeout=2.0)
    await publish(rig, rig.a, rig.b, policy=replace(UNHURRIED, limits=limits))
    rig.a.hang = True
    assert await rig.client.answered_by() == "b"
    assert await rig.envoy.stat(f"cluster.{SERVICE}.upstream_rq_per_try_idle_timeout") >= 1


async def test_a_stream_above_the_maximum_duration_is_cut_and_counted(rig: Rig) -> None:
    async def cut(timeout: float | None) -> None:
        call = rig.client.stream(timeout=timeout)
        await call.write(b"2")
        assert await call.read() == b"a:0"  # the second answer is never sent
        async with asyncio.timeout(PATIENCE):
            assert await call.code() != grpc.StatusCode.OK

    limits = Limits(max_stream_duration=5.0)
    await publish(rig, rig.a, rig.b, policy=replace(UNHURRIED, limits=limits))
    # Envoy lowers the deadline to the maximum and passes it on, so either end may cut a stream.
    await cut(timeout=2 * PATIENCE)
    async with asyncio.timeout(PATIENCE):
        while not await rig.envoy.stat("http.triton.downstream_rq_max_duration_reached"):
            await cut(timeout=None)
    assert await rig.client.answered_by() == "a"


async def test_a_body_above_the_limit_is_not_retried(rig: Rig) -> None:
    limits = Limits(retry_body_bytes=2**20)
    await publish(rig, rig.a, rig.b, policy=replace(UNHURRIED, limits=limits))
    rig.a.die_on_request = True
    assert await rig.client.answered_by(bytes(2**19)) == "b"
    rig.a.die_on_request = True
    with pytest.raises(grpc.aio.AioRpcError):
        await rig.client.answered_by(bytes(2**22))


async def test_a_new_instance_gets_its_share_gradually(rig: Rig, c: FakeTriton) -> None:
    policy = mode(Mode.ACTIVE_ACTIVE, limits=Limits(slow_start=40.0))
    await publish(rig, rig.a, rig.b, policy=policy)  # in a new cluster both start slowly as well
    await asyncio.sleep(10)
    await publish(rig, rig.a, rig.b, c, policy=policy)
    # Sequential requests, because requests in flight reduce an instance's share as well.
    found = await rig.client.count(300)
    assert 0 < found["c"] < 0.75 * min(found["a"], found["b"])


async def test_requests_are_routed_to_the_service_that_they_match(rig: Rig, c: FakeTriton) -> None:
    vision = Match(
        authorities=("eyes.example",),
        path_prefixes=("/inference.GRPCInferenceService/ModelInfer",),
        headers=(("x-team", "vision"),),
    )
    services = (
        ServiceCatalog(SERVICE, (rig.a.instance(),)),
        ServiceCatalog("Vision", (c.instance(),), policy=replace(UNHURRIED, match=vision)),
    )
    rig.control_plane.catalog.set(Catalog(services))
    await rig.settled(1, "Vision")
    assert set(await rig.client.count(5)) == {"a"}
    assert set(await rig.client.count(5, x_team="vision")) == {"c"}
    assert set(await rig.client.count(5, x_team="other")) == {"a"}
    for authority in ("eyes.example", "eyes.example:8001", "vision"):
        async with rig.client_of(authority) as client:
            assert set(await client.count(5)) == {"c"}
    async with rig.client_of(SERVICE) as client:
        assert set(await client.count(5, x_team="vision")) == {"a"}


async def _clusters(rig: Rig, count: int) -> bool:
    return await rig.envoy.stat("cluster_manager.active_clusters") == count


async def _only(rig: Rig, name: str) -> bool:
    """Whether one instance answers all of 20 requests."""
    found = await asyncio.gather(*(rig.client.answered_by() for _ in range(20)))
    return set(found) == {name}
