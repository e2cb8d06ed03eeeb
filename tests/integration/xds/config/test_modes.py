"""What a traffic policy does, seen by clients of a real Envoy."""

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
    """A third Triton, not published yet."""
    [joined] = await rig.join("c")
    return joined


async def publish(
    rig: Rig, *tritons: FakeTriton, policy: TrafficPolicy, leader: str | None = "a"
) -> None:
    """Publish them as healthy, and wait until Envoy has the policy and has checked them."""
    rig.control_plane.publish(
        *(triton.instance() for triton in tritons), leader=leader, policy=policy
    )
    await rig.settled(len(tritons))


def mode(name: Mode, **changes: object) -> TrafficPolicy:
    return replace(UNHURRIED, mode=name, **changes)  # type: ignore[arg-type]


async def test_active_active_shares_and_loses_nothing(rig: Rig, c: FakeTriton) -> None:
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


async def test_weights_share_three_to_two_to_two(rig: Rig, c: FakeTriton) -> None:
    weighted = mode(Mode.WEIGHTED, weights=(("a", 3), ("b", 2), ("c", 2)))
    await publish(rig, rig.a, rig.b, c, policy=weighted)
    found = await rig.client.count(700)
    # Two workers take turns of their own; a client's connection stays with one of them.
    assert {name: round(found[name] / 100) for name in "abc"} == {"a": 3, "b": 2, "c": 2}


async def test_one_without_a_weight_stands_by(rig: Rig, c: FakeTriton) -> None:
    await publish(rig, rig.a, rig.b, c, policy=mode(Mode.WEIGHTED, weights=(("a", 1), ("b", 1))))
    assert set(await rig.client.count(100)) == {"a", "b"}
    rig.a.wire.cut()
    rig.b.wire.cut()
    assert set(await rig.client.count(20)) == {"c"}


async def test_strict_uses_the_primary_or_no_instance(rig: Rig) -> None:
    rig.both(leader="a", policy=mode(Mode.STRICT))
    await rig.settled(1)  # the other one is not counted as healthy
    assert set(await rig.client.count(50)) == {"a"}
    ill = rig.a.instance(health=Health.CRITICAL)
    rig.control_plane.publish(ill, rig.b.instance(), leader="a", policy=mode(Mode.STRICT))

    async def refused() -> bool:
        try:
            await rig.client.who()
        except grpc.aio.AioRpcError as error:
            return error.code() == grpc.StatusCode.UNAVAILABLE
        return False

    await eventually(refused, "nobody answers")
    served = rig.b.served
    assert all(await asyncio.gather(*(refused() for _ in range(20))))  # each waits for a while
    assert rig.b.served == served == 0


async def test_a_release_gets_its_share_and_ends_without_a_failure(rig: Rig, c: FakeTriton) -> None:
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
    # Ours and control_plane: that of the release goes when nothing is in flight on it any more.
    await eventually(lambda: _clusters(rig, 2), "the release has no cluster any more")


async def test_a_release_that_dies_is_answered_for_by_the_others(rig: Rig, c: FakeTriton) -> None:
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
        answers = {await rig.client.who(x_user=f"user-{user}") for _ in range(4)}
        assert len(answers) == 1
        sides.update(answers)
    assert min(sides["a"], sides["c"]) > 10


async def test_a_session_stays_where_it_is_and_moves_once(rig: Rig, c: FakeTriton) -> None:
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
    await eventually(lambda: rig.reachable(2), "one is found out")
    stayed = 0
    for number, home in homes.items():
        answers = await rig.client.count(4, x_session=f"s{number}")
        assert len(answers) == 1
        assert "a" not in answers
        stayed += home in answers
    # Envoy's ring has a fixed size, and is not quite consistent when it has fewer hosts.
    others = sum(home != "a" for home in homes.values())
    assert stayed > others / 2


async def test_a_sequence_is_never_sent_again_elsewhere(rig: Rig) -> None:
    policy = mode(Mode.ACTIVE_ACTIVE, affinity=Affinity(sequence_header="x-sequence"))
    await publish(rig, rig.a, rig.b, policy=policy)
    [home] = await rig.client.count(5, x_sequence="7")
    triton, other = (rig.a, rig.b) if home == "a" else (rig.b, rig.a)
    triton.die_on_request = True
    served = other.served
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await rig.client.who(x_sequence="7")
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    assert other.served == served
    triton.die_on_request = True
    while triton.die_on_request:
        assert await rig.client.who() in "ab"  # any other request is


async def test_the_own_zone_comes_first_and_then_other_datacenters(rig: Rig, c: FakeTriton) -> None:
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


async def test_a_declared_capacity_is_a_limit_that_moves_in_place(rig: Rig) -> None:
    async def admitted(requests: int) -> int:
        """How many of so many are let through at once."""
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
    assert await rig.envoy.stat("cluster_manager.cluster_added") == 2  # and the control plane's


async def test_a_silent_attempt_is_given_up_and_made_elsewhere(rig: Rig) -> None:
    limits = Limits(per_try_idle_timeout=2.0)
    await publish(rig, rig.a, rig.b, policy=replace(UNHURRIED, limits=limits))
    rig.a.hang = True
    assert await rig.client.who() == "b"
    assert await rig.envoy.stat(f"cluster.{SERVICE}.upstream_rq_per_try_idle_timeout") >= 1


async def test_a_stuck_stream_is_cut_and_counted(rig: Rig) -> None:
    async def cut(timeout: float | None) -> None:
        call = rig.client.stream(timeout=timeout)
        await call.write(b"2")
        assert await call.read() == b"a:0"  # the second answer never comes
        async with asyncio.timeout(PATIENCE):
            assert await call.code() != grpc.StatusCode.OK

    limits = Limits(max_stream_duration=5.0)
    await publish(rig, rig.a, rig.b, policy=replace(UNHURRIED, limits=limits))
    await cut(timeout=None)
    assert await rig.envoy.stat("http.triton.downstream_rq_max_duration_reached") == 1
    # A deadline is shortened to the bound, and goes on to Triton: who is first cuts.
    await cut(timeout=2 * PATIENCE)
    assert await rig.client.who() == "a"


async def test_a_large_body_is_retried_only_within_the_bound(rig: Rig) -> None:
    limits = Limits(retry_body_bytes=2**20)
    await publish(rig, rig.a, rig.b, policy=replace(UNHURRIED, limits=limits))
    rig.a.die_on_request = True
    assert await rig.client.who(bytes(2**19)) == "b"
    rig.a.die_on_request = True
    with pytest.raises(grpc.aio.AioRpcError):
        await rig.client.who(bytes(2**22))


async def test_one_that_joins_gets_its_share_slowly(rig: Rig, c: FakeTriton) -> None:
    policy = mode(Mode.ACTIVE_ACTIVE, limits=Limits(slow_start=40.0))
    await publish(rig, rig.a, rig.b, policy=policy)  # a new cluster: both begin slowly, too
    await asyncio.sleep(10)
    await publish(rig, rig.a, rig.b, c, policy=policy)
    # One after the other: what is in flight counts against an instance as well.
    found = await rig.client.count(300)
    assert 0 < found["c"] < 0.75 * min(found["a"], found["b"])


async def test_services_are_told_apart(rig: Rig, c: FakeTriton) -> None:
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
    """Whether a row of requests is answered by one alone."""
    found = await asyncio.gather(*(rig.client.who() for _ in range(20)))
    return set(found) == {name}
