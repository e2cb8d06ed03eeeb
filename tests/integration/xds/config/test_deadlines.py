"""Deadlines, cancellations and timed-out attempts: on a real Envoy they eject no host."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest

from sidecar.traffic.policy import Limits, Mode, TrafficPolicy
from sidecar.xds.catalog.catalog import Health
from sidecar.xds.config import http2
from tests.support.soak import soak
from tests.support.xds.control_plane import SERVICE, UNHURRIED
from tests.support.xds.fake_tritons import INFER
from tests.support.xds.grpc_clients import Load
from tests.support.xds.raw_client import RawClient
from tests.support.xds.waiting import PATIENCE, eventually
from tests.support.xds.xds_rig import Rig

pytestmark = pytest.mark.integration

SLOW = b"slow"
# More than the default of Envoy's codec: 1000, and 33 per second. The rate stays below our limit,
# as any legitimate backend does; a fast machine could exceed it.
CANCELLED = 1920
CANCELLED_IN_A_SECOND = http2.STREAM_RESET_RATE / 2
ALONE = {"health": Health.CRITICAL}


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with Rig.running("DELTA_GRPC") as running:
        yield running


async def ejections(rig: Rig) -> int:
    """How many ejections Envoy has detected or enforced."""
    found = f"cluster.{SERVICE}.outlier_detection.ejections_"
    detected = await rig.envoy.stat(f"{found}detected_consecutive_local_origin_failure")
    return detected + await rig.envoy.stat(f"{found}enforced_total")


async def codes_of_late_answers(rig: Rig, rounds: int) -> set[grpc.StatusCode]:
    """Send requests, eight at a time, whose deadlines expire before their answers."""
    calls = [rig.client.infer(SLOW, timeout=0.05) for _ in range(8 * rounds)]
    codes: set[grpc.StatusCode] = set()
    for at in range(0, len(calls), 8):
        codes |= set(await asyncio.gather(*(call.code() for call in calls[at : at + 8])))
    return codes


POLICIES: dict[str, tuple[TrafficPolicy, dict[str, Any]]] = {
    "strict": (replace(UNHURRIED, mode=Mode.STRICT), {}),
    "active-standby": (UNHURRIED, {}),
    "alone": (UNHURRIED, ALONE),
    "active-active": (replace(UNHURRIED, mode=Mode.ACTIVE_ACTIVE), {}),
}


@pytest.mark.parametrize("clients", [16, pytest.param(64, marks=soak)])
@pytest.mark.parametrize("policy", POLICIES)
async def test_deadlines_shorter_than_answers_eject_no_host(
    rig: Rig, policy: str, clients: int
) -> None:
    in_force, b = POLICIES[policy]
    rig.control_plane.publish(rig.a.instance(), rig.b.instance(**b), leader="a", policy=in_force)
    await rig.settled(1 if policy in ("strict", "alone") else 2)
    rig.a.takes = rig.b.takes = {SLOW: 0.3}
    load = Load(rig.client, clients)
    assert await codes_of_late_answers(rig, 5) == {grpc.StatusCode.DEADLINE_EXCEEDED}
    await load.more(clients)
    # Nor does a DEADLINE_EXCEEDED of the server eject it.
    rig.a.takes = rig.b.takes = {}
    rig.a.fails = rig.b.fails = {SLOW: grpc.StatusCode.DEADLINE_EXCEEDED}
    for _ in range(5):
        calls = [rig.client.infer(SLOW, timeout=PATIENCE) for _ in range(8)]
        codes = await asyncio.gather(*(call.code() for call in calls))
        assert set(codes) == {grpc.StatusCode.DEADLINE_EXCEEDED}
    await load.more(clients)
    await load.stop()
    assert load.failures == []
    assert await ejections(rig) == 0


async def test_attempts_that_time_out_eject_no_host(rig: Rig) -> None:
    """Each request gets two attempts, and then its client gets the error."""
    rig.both(leader="a", policy=replace(UNHURRIED, limits=Limits(per_try_idle_timeout=1.0)))
    await rig.settled()
    rig.a.takes = rig.b.takes = {SLOW: PATIENCE}
    for _ in range(3):
        before = rig.a.asked + rig.b.asked
        codes = await asyncio.gather(*(slow_request(rig) for _ in range(8)))
        assert set(codes) == {grpc.StatusCode.UNAVAILABLE}
        assert rig.a.asked + rig.b.asked == before + 16
    name = f"cluster.{SERVICE}.outlier_detection.ejections_enforced_total"
    assert await rig.envoy.stat(name) == 0
    assert set(await rig.client.count(20)) == {"a"}


async def slow_request(rig: Rig) -> grpc.StatusCode:
    code: grpc.StatusCode = await rig.client.infer(SLOW, timeout=PATIENCE).code()
    return code


@pytest.mark.parametrize("clients", [16, pytest.param(64, marks=soak)])
async def test_cancellations_cut_no_other_request_on_the_connection(rig: Rig, clients: int) -> None:
    """A backend for many users has one channel, and users cancel."""
    rig.a.takes = {SLOW: PATIENCE}
    stream = rig.client.stream(iter([b"2"]), timeout=PATIENCE)
    assert await stream.read() == b"a:0"
    # 60 % of all requests.
    at_once = clients * 3 // 2
    for _ in range(CANCELLED // at_once):
        calls = [rig.client.infer(SLOW, timeout=PATIENCE) for _ in range(at_once)]
        answers = await asyncio.gather(
            asyncio.sleep(at_once / CANCELLED_IN_A_SECOND),
            *(rig.client.answered_by() for _ in range(clients)),
        )
        assert set(answers[1:]) == {"a"}
        for call in calls:
            call.cancel()
    rig.a.gate.set()
    assert await stream.read() == b"a:1"
    assert await rig.envoy.stat("http.triton.downstream_rq_too_many_premature_resets") == 0
    assert await rig.envoy.stat("http.triton.downstream_cx_protocol_error") == 0
    assert await ejections(rig) == 0


async def test_only_a_client_that_cancels_every_request_is_cut(rig: Rig) -> None:
    """It exceeds every limit, as fast as Envoy reads."""
    load = Load(rig.client, 16)
    await load.more(16)
    attacker = await RawClient().connect(rig.envoy.port)
    rig.stack.push_async_callback(attacker.close)

    def cut() -> bool:
        if not attacker.gone:
            for _ in range(200):
                attacker.cancel(attacker.request(INFER, b"", end=False))
        return attacker.gone

    await eventually(cut, "it is cut")
    await load.more(16)
    await load.stop()
    assert load.failures == []
    assert set(load.answers) == {"a"}
    assert await ejections(rig) == 0
