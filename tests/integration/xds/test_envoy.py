"""Our control plane with a real Envoy: the fate of requests when the catalog changes."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest

from sidecar.traffic.policy import DEFAULTS, Connection, Mode, OutlierDetection
from sidecar.xds.catalog.catalog import Health
from tests.support.soak import soak
from tests.support.xds.control_plane import SERVICE, UNHURRIED, ControlPlane
from tests.support.xds.fake_tritons import ANY
from tests.support.xds.grpc_clients import Load
from tests.support.xds.waiting import PATIENCE, eventually
from tests.support.xds.xds_rig import Rig

pytestmark = pytest.mark.integration


# Tests of the protocol run in both variants of xDS. How Envoy then handles requests does not depend
# on the variant, so only `make test-soak` runs those tests in the second one.
VARIANTS = ("DELTA_GRPC", "GRPC")
both_variants = pytest.mark.parametrize("rig", VARIANTS, indirect=True)


@pytest.fixture(params=[VARIANTS[0], pytest.param(VARIANTS[1], marks=soak)])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    async with Rig.running(request.param) as running:
        yield running


@both_variants
async def test_moves_of_the_role_under_load_fail_no_request(rig: Rig) -> None:
    load = Load(rig.client, clients=16)
    await load.more(50, by="a")
    for turn in range(6):
        leader = "ba"[turn % 2]
        rig.both(leader=leader, epoch=2 + turn)
        await load.more(50, by=leader)
    await load.stop()
    assert load.failures == []
    rig.both(leader="b", epoch=99)
    await eventually(lambda: _is(rig, "b"), "the newest leader answers")
    assert {await rig.client.answered_by() for _ in range(50)} == {"b"}


@soak  # as above, with fewer clients
async def test_two_hundred_moves_of_the_role_fail_no_request_of_64_clients() -> None:
    async with Rig.running("DELTA_GRPC", workers=4) as rig:
        # As many clients as the capacity of each instance.
        instances = rig.a.instance(capacity=64), rig.b.instance(capacity=64)
        load = Load(rig.client, clients=64)
        for turn in range(200):
            leader = "ba"[turn % 2]
            rig.control_plane.publish(*instances, leader=leader, epoch=2 + turn)
            await load.more(10, by=leader)
        await load.stop()
        assert load.failures == []
        assert await rig.envoy.stat(f"cluster.{SERVICE}.health_check.success") > 0


async def test_a_crash_is_retried_on_the_standby(rig: Rig) -> None:
    load = Load(rig.client, clients=16)
    await load.more(50, by="a")
    rig.a.wire.cut()  # the catalog and the sidecar still report it healthy
    await load.more(200, by="b")
    await load.stop()
    assert load.failures == []


async def test_a_request_for_a_model_that_is_not_loaded_is_retried_elsewhere(rig: Rig) -> None:
    load = Load(rig.client, clients=16)
    await load.more(50, by="a")
    rig.a.fails = {ANY: grpc.StatusCode.NOT_FOUND}  # still passing in the catalog
    await load.more(200, by="b")
    await load.stop()
    assert load.failures == []
    rig.b.fails = {ANY: grpc.StatusCode.NOT_FOUND}
    call = rig.client.infer(b"x", timeout=PATIENCE)
    assert await call.code() == grpc.StatusCode.NOT_FOUND
    assert await call.details() == "as b was told"


async def test_requests_on_a_frozen_instance_are_retried(rig: Rig) -> None:
    # With Envoy's default keepalive.
    rig.both(leader="a", policy=replace(UNHURRIED, connection=Connection()))
    await rig.settled()
    load = Load(rig.client, clients=16)
    await load.more(50, by="a")
    rig.a.wire.frozen = True
    await load.more(200, by="b")
    await load.stop()
    assert load.failures == []


async def test_a_sidecars_answer_alone_moves_traffic(rig: Rig) -> None:
    load = Load(rig.client, clients=4)
    await load.more(20, by="a")
    rig.a.serving = False  # the catalog does not change, as if Consul were down
    await load.more(50, by="b")
    await load.stop()
    assert load.failures == []


async def test_a_sidecar_that_does_not_answer_takes_no_instance_out_of_service(rig: Rig) -> None:
    failed = f"cluster.{SERVICE}.health_check.network_failure"
    policy = replace(DEFAULTS, connection=UNHURRIED.connection)
    rig.control_plane.publish(rig.a.instance(), leader="a", policy=policy)
    await rig.settled(1)
    load = Load(rig.client, clients=4)
    rig.a.speaks.clear()
    await eventually(lambda: rig.a.unanswered, "an unanswered health check")
    await load.more(200, by="a")
    rig.a.speaks.set()
    before = await rig.envoy.stat(failed)
    await rig.a.lose_sidecar()

    async def missed() -> bool:
        return await rig.envoy.stat(failed) >= before + 8

    await eventually(missed, "checks of a sidecar that is gone")
    await load.more(200, by="a")
    await load.stop()
    assert load.failures == []


async def test_in_mode_strict_an_instance_needs_its_sidecars_answer(rig: Rig) -> None:
    strict = replace(DEFAULTS, connection=UNHURRIED.connection, mode=Mode.STRICT)
    rig.control_plane.publish(rig.a.instance(), leader="a", policy=strict)
    await rig.settled(1)
    rig.a.speaks.clear()
    await rig.settled(0)
    rig.a.speaks.set()
    await rig.settled(1)


async def test_the_last_answer_of_a_sidecar_that_stopped_answering_counts(rig: Rig) -> None:
    rig.control_plane.publish(rig.a.instance(), leader="a")
    await rig.settled(1)
    rig.a.serving = False
    await rig.settled(0)
    rig.a.speaks.clear()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await rig.client.answered_by()
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    rig.a.serving = True
    rig.a.speaks.set()
    await rig.settled(1)


@both_variants
async def test_a_draining_instance_keeps_its_stream_and_gets_no_new_requests(rig: Rig) -> None:
    async with rig.drain_of("a") as status:
        call = rig.client.stream(timeout=PATIENCE)
        await call.write(b"3")
        assert await call.read() == b"a:0"
        await eventually(lambda: status().envoys, "the control plane answers")
        assert status().envoys_acknowledged == 0

        draining = rig.a.instance(draining=True, health=Health.CRITICAL)
        rig.control_plane.publish(draining, rig.b.instance(), leader="a")
        await eventually(lambda: status().envoys_acknowledged == 1, "Envoy acknowledges")
        await eventually(lambda: status().envoys_reported == 1, "Envoy reports its load")
        assert status().requests_in_flight == 1
        before = rig.a.served
        assert {await rig.client.answered_by() for _ in range(100)} == {"b"}
        assert rig.a.served == before
        # The lock has moved; the instance is still registered, and still counted.
        rig.control_plane.publish(draining, rig.b.instance(), leader="b", epoch=2)
        await asyncio.sleep(1.5)  # a few reports
        assert (status().envoys_reported, status().requests_in_flight) == (1, 1)

        rig.a.gate.set()
        assert [await call.read(), await call.read()] == [b"a:1", b"a:2"]
        await call.done_writing()
        assert await call.code() == grpc.StatusCode.OK
        await eventually(lambda: _over(status()), "the drain is over")


async def test_a_stream_that_outlives_a_failure_is_counted_by_the_drain(rig: Rig) -> None:
    call = rig.client.stream(timeout=PATIENCE)
    await call.write(b"2")
    assert await call.read() == b"a:0"
    unhealthy = rig.a.instance(health=Health.CRITICAL)
    rig.control_plane.publish(unhealthy, rig.b.instance(), leader="a")
    await eventually(lambda: _is(rig, "b"), "a gets no new requests")
    assert {await rig.client.answered_by() for _ in range(50)} == {"b"}
    rig.both(leader="a")
    await eventually(lambda: _is(rig, "a"), "it has recovered")
    async with rig.drain_of("a") as status:
        draining = rig.a.instance(draining=True)
        rig.control_plane.publish(draining, rig.b.instance(), leader="a")
        await eventually(lambda: status().envoys_reported == 1, "Envoy reports its load")
        assert status().requests_in_flight == 1
        rig.a.gate.set()
        assert await call.read() == b"a:1"
        await call.done_writing()
        await eventually(lambda: _over(status()), "the drain is over")


@both_variants
async def test_a_drain_ends_if_envoy_has_no_requests(rig: Rig) -> None:
    async with rig.drain_of("b") as status:
        rig.control_plane.publish(rig.a.instance(), rig.b.instance(draining=True), leader="a")
        await eventually(lambda: _over(status()), "the drain is over")


@pytest.mark.parametrize("why", [{"draining": True}, {"health": Health.CRITICAL}])
async def test_if_all_instances_are_withdrawn_none_gets_requests(
    rig: Rig, why: dict[str, Any]
) -> None:
    rig.control_plane.publish(rig.a.instance(**why), rig.b.instance(**why))
    await eventually(lambda: _fails(rig), "requests fail")
    served = rig.a.served + rig.b.served
    for _ in range(20):
        assert await _fails(rig)
    assert rig.a.served + rig.b.served == served


@both_variants
async def test_a_removed_host_finishes_its_stream(rig: Rig) -> None:
    call = rig.client.stream(timeout=PATIENCE)
    await call.write(b"2")
    assert await call.read() == b"a:0"
    rig.control_plane.publish(rig.b.instance(), leader="b", epoch=2)
    await eventually(lambda: _is(rig, "b"), "traffic has moved")
    rig.a.gate.set()
    assert await call.read() == b"a:1"
    await call.done_writing()
    assert await call.code() == grpc.StatusCode.OK


@both_variants
async def test_a_restarted_control_plane_changes_no_traffic(rig: Rig) -> None:
    load = Load(rig.client, clients=8)
    await load.more(50, by="a")
    await rig.control_plane.stop()
    await load.more(50, by="a")

    rig.control_plane = ControlPlane(rig.edge)
    await rig.control_plane.start(rig.xds_port)
    # First it has no catalog, then one that is not settled.
    await load.more(50, by="a")
    rig.control_plane.publish(settled=False)
    await eventually(lambda: rig.control_plane.sample("envoys") == 1, "Envoy is back")
    await load.more(50, by="a")
    rig.both(leader="a")
    await load.more(50, by="a")
    rig.both(leader="b", epoch=2)
    await load.more(50, by="b")
    await load.stop()
    assert load.failures == []


@both_variants
@pytest.mark.parametrize("known", [True, False])
async def test_a_restarted_control_plane_with_another_policy_fails_no_request(
    rig: Rig, known: bool
) -> None:
    """Or no policy yet, as when Consul does not let it read the key."""
    slower = replace(UNHURRIED, connection=replace(UNHURRIED.connection, connect_timeout=0.75))
    rig.both(leader="a", policy=slower)
    await rig.settled()
    load = Load(rig.client, clients=8)
    await load.more(50, by="a")
    await rig.control_plane.stop()

    rig.control_plane = ControlPlane(rig.edge)
    await rig.control_plane.start(rig.xds_port)
    if not known:
        rig.control_plane.publish(settled=False)
        await eventually(lambda: rig.control_plane.sample("envoys") == 1, "Envoy is back")
        await load.more(200, by="a")
    rig.both(leader="a")
    await eventually(lambda: rig.control_plane.sample("envoys") == 1, "Envoy is back")
    await rig.settled()
    await load.more(50, by="a")
    rig.both(leader="b", epoch=2)
    await load.more(50, by="b")
    await load.stop()
    assert load.failures == []


async def test_another_control_plane_takes_over() -> None:
    async with Rig.running("DELTA_GRPC", planes=2) as rig:
        assert rig.control_plane.sample("envoys") == 1
        load = Load(rig.client, clients=8)
        await load.more(50, by="a")
        await rig.control_plane.stop()
        await eventually(
            lambda: rig.second.sample("envoys") == 1, "Envoy connects to the other one"
        )
        instances = rig.a.instance(), rig.b.instance()
        rig.second.publish(*instances, leader="b", epoch=2)
        await load.more(50, by="b")
        await load.stop()
        assert load.failures == []


@both_variants
async def test_a_changed_cluster_gets_its_endpoints_at_once(rig: Rig) -> None:
    load = Load(rig.client, clients=4)
    await load.more(20, by="a")
    slower = replace(UNHURRIED, connection=replace(UNHURRIED.connection, connect_timeout=0.75))
    rig.both(leader="a", policy=slower)
    await rig.settled()
    assert await rig.envoy.stat("cluster_manager.cluster_added") == 3  # with the control plane's
    await load.more(20, by="a")
    await load.stop()
    assert load.failures == []
    # EDS answered at once, so the timeout of 15 s did not expire.
    assert await rig.envoy.stat(f"cluster.{SERVICE}.init_fetch_timeout") == 0


@both_variants
async def test_a_rejected_configuration_keeps_the_last_good_one(rig: Rig) -> None:
    rejected = replace(UNHURRIED, outlier_detection=OutlierDetection(max_ejection_percent=500))
    rig.both(leader="a", policy=rejected)
    await eventually(lambda: rig.control_plane.listener.nacks, "a NACK")
    assert 'name: "triton"' in rig.control_plane.listener.nacks[0]
    # The NACK begins with the cluster, and is truncated to 4096 characters.
    assert "MaxEjectionPercent" in rig.envoy.log.read_text()
    assert {await rig.client.answered_by() for _ in range(20)} == {"a"}
    pushes = rig.control_plane.sample("pushes_total")
    await asyncio.sleep(0.5)
    assert rig.control_plane.sample("pushes_total") == pushes  # it is not sent again
    rig.both(leader="b", epoch=2)
    await eventually(lambda: _is(rig, "b"), "it follows good ones again")


@both_variants
async def test_a_service_without_instances_is_unavailable_and_recovers(rig: Rig) -> None:
    rig.control_plane.publish()
    await eventually(lambda: _fails(rig), "no instance is left")
    rig.both(leader="b", epoch=2)
    await eventually(rig.reachable, "the hosts are healthy again")
    await eventually(lambda: _is(rig, "b"), "it is back")


@both_variants
async def test_a_catalog_with_the_same_endpoints_is_not_pushed(rig: Rig) -> None:
    rig.both(leader="b", epoch=2)
    await eventually(lambda: _is(rig, "b"), "it follows")
    await rig.settled()
    pushes = rig.control_plane.sample("pushes_total")
    rig.both(leader="b", epoch=3)  # another epoch, the same endpoints
    await asyncio.sleep(0.5)
    assert rig.control_plane.sample("pushes_total") == pushes


async def test_large_tensors_pass_and_are_retried(rig: Rig) -> None:
    """Far above Envoy's default of 1 MiB, but small enough for the rig, which is one event loop, to
    answer Envoy's pings. test_mesh_requests.py sends 64 MiB to a real Triton."""
    size = 16 * 1024 * 1024
    rig.a.die_on_request = True
    for _ in range(2):
        answer = await rig.client.infer(bytes(size), timeout=PATIENCE)
        # On a busy machine a host may miss a health check, so either may answer.
        assert answer in (f"a:{size}".encode(), f"b:{size}".encode())
    assert not rig.a.die_on_request  # the first request was retried


async def test_deadlines_of_clients_and_trailers_of_triton_pass(rig: Rig) -> None:
    call = rig.client.infer(b"x", timeout=PATIENCE)
    await call
    assert ("served-by", "a") in list(await call.trailing_metadata())
    rig.a.hang = True
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await rig.client.infer(b"x", timeout=1.0)
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    rig.a.hang = False
    assert await rig.client.answered_by() == "a"


def _over(status: Any) -> bool:
    """Whether the only Envoy has no request in flight."""
    counts = (status.envoys, status.envoys_acknowledged, status.envoys_reported)
    return counts == (1, 1, 1) and status.requests_in_flight == 0


async def _is(rig: Rig, name: str) -> bool:
    return await rig.client.answered_by() == name


async def _fails(rig: Rig) -> bool:
    """Whether a request fails with UNAVAILABLE."""
    call = rig.client.infer(b"x", timeout=PATIENCE)
    return bool(await call.code() == grpc.StatusCode.UNAVAILABLE)
