"""Failures behind a real Envoy: which instance gets the retry, and which is ejected."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest

from sidecar.traffic.policy import (
    Admission,
    Affinity,
    Limits,
    Locality,
    Mode,
    Retry,
    StatusCode,
    TrafficPolicy,
)
from sidecar.xds.catalog.catalog import Health
from tests.support.soak import soak
from tests.support.xds.control_plane import SERVICE, UNHURRIED
from tests.support.xds.fake_tritons import ANY, UNLOAD
from tests.support.xds.grpc_clients import Load
from tests.support.xds.waiting import PATIENCE
from tests.support.xds.xds_rig import Rig

pytestmark = pytest.mark.integration

BAD = b"bad"
CODE = grpc.StatusCode
CLIENT_ERRORS = (
    *(CODE.INVALID_ARGUMENT, CODE.FAILED_PRECONDITION, CODE.OUT_OF_RANGE, CODE.UNIMPLEMENTED),
    *(CODE.PERMISSION_DENIED, CODE.UNAUTHENTICATED, CODE.ALREADY_EXISTS, CODE.CANCELLED),
    *(CODE.DEADLINE_EXCEEDED, CODE.RESOURCE_EXHAUSTED),
)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with Rig.running("DELTA_GRPC") as running:
        yield running


async def status_of(rig: Rig, request: bytes = BAD, **headers: str) -> grpc.StatusCode:
    """The status with which a request ends."""
    metadata = [(name.replace("_", "-"), value) for name, value in headers.items()]
    code: grpc.StatusCode = await rig.client.infer(
        request, timeout=PATIENCE, metadata=metadata
    ).code()
    return code


async def ejections(rig: Rig) -> int:
    """The number of hosts that Envoy has ejected."""
    return await rig.envoy.stat(f"cluster.{SERVICE}.outlier_detection.ejections_enforced_total")


def attempts(rig: Rig) -> int:
    """The attempts that have reached either of the two instances."""
    return rig.a.asked + rig.b.asked


@pytest.mark.parametrize("code", [CODE.INTERNAL, CODE.UNKNOWN, CODE.NOT_FOUND, CODE.UNAVAILABLE])
async def test_a_failed_request_is_retried_once_on_another_instance(
    rig: Rig, code: grpc.StatusCode
) -> None:
    load = Load(rig.client, clients=16)
    await load.more(50, by="a")
    rig.a.fails = {ANY: code}
    await load.more(300, by="b")
    await load.stop()
    assert load.failures == []
    assert await ejections(rig) == 0
    # Envoy makes no third attempt, whatever the client's headers request.
    rig.b.fails = {ANY: code}
    before = attempts(rig)
    headers = {"x_envoy_max_retries": "9", "x_envoy_retry_on": "5xx,reset,internal,unavailable"}
    assert await status_of(rig, BAD, **headers) == code
    assert attempts(rig) == before + 2


async def test_a_lone_instance_gets_three_attempts_at_most(rig: Rig) -> None:
    """A first retry that repeats a host does not count as the retry: docs/decisions/0031."""
    rig.control_plane.publish(rig.a.instance(), leader="a")
    await rig.settled(1)
    rig.a.fails, before = {ANY: CODE.INTERNAL}, attempts(rig)
    assert await status_of(rig) == CODE.INTERNAL
    assert attempts(rig) == before + 3


async def test_client_errors_are_not_retried(rig: Rig) -> None:
    for code in CLIENT_ERRORS:
        rig.a.fails, before = {ANY: code}, attempts(rig)
        assert await status_of(rig) == code
        assert attempts(rig) == before + 1


async def test_a_client_with_failing_requests_affects_no_other_client(rig: Rig) -> None:
    rig.a.fails = rig.b.fails = {BAD: CODE.INTERNAL}
    sent, done = 0, False

    async def keep_sending() -> None:
        nonlocal sent
        while not done:
            sent += 1
            assert await status_of(rig) == CODE.INTERNAL

    load, bad = (
        Load(rig.client, clients=16),
        [asyncio.create_task(keep_sending()) for _ in range(16)],
    )
    await load.more(1500)
    done = True
    await load.stop()
    await asyncio.gather(*bad)
    assert load.failures == []
    assert set(load.answers) == {"a"}  # it was never ejected
    assert sent > 100
    assert attempts(rig) == load.answers.total() + 2 * sent
    assert await ejections(rig) == 0


@pytest.mark.parametrize("alone", [True, False])
async def test_a_full_queue_of_one_model_ejects_no_host(rig: Rig, alone: bool) -> None:
    # Triton's status if the queue of one model is full, or its version is not loaded.
    rig.a.fails = rig.b.fails = {BAD: CODE.UNAVAILABLE}
    health = Health.CRITICAL if alone else Health.PASSING
    rig.control_plane.publish(rig.a.instance(), rig.b.instance(health=health), leader="a")
    await rig.settled(1 if alone else 2)
    load = Load(rig.client, clients=4)
    for _ in range(10):
        codes = await asyncio.gather(*(status_of(rig) for _ in range(8)))
        assert set(codes) == {CODE.UNAVAILABLE}
    await load.more(50)
    await load.stop()
    assert load.failures == []
    assert set(load.answers) == {"a"}
    assert await ejections(rig) == 0


def shared(**changes: Any) -> TrafficPolicy:
    return replace(UNHURRIED, mode=Mode.ACTIVE_ACTIVE, **changes)


@pytest.mark.parametrize(
    ("policy", "how"),
    [
        (UNHURRIED, {}),
        (shared(), {}),  # the dead host has the fewest requests in flight
        (replace(UNHURRIED, mode=Mode.WEIGHTED, weights=(("a", 1),)), {}),
        (replace(UNHURRIED, mode=Mode.WEIGHTED, weights=(("a", 9), ("b", 1))), {}),
        (shared(locality=Locality(datacenters=("dc2",))), {"datacenter": "dc2"}),
        # With this timeout no host is ejected.
        (shared(limits=Limits(per_try_idle_timeout=PATIENCE)), {}),
    ],
    ids=[
        *("active-standby", "active-active", "weighted alone", "weighted", "datacenters"),
        "per_try_idle_timeout",
    ],
)
@pytest.mark.parametrize("clients", [16, pytest.param(64, marks=soak)])
async def test_a_crash_fails_no_request(
    rig: Rig, policy: TrafficPolicy, how: dict[str, Any], clients: int
) -> None:
    rig.control_plane.publish(rig.a.instance(), rig.b.instance(**how), leader="a", policy=policy)
    await rig.settled()
    load = Load(rig.client, clients)
    await load.more(5 * clients, by="a")
    rig.a.wire.cut()
    await load.more(10 * clients, by="b")
    await load.stop()
    assert load.failures == []


async def test_sessions_move_when_their_host_crashes(rig: Rig) -> None:
    policy = shared(affinity=Affinity(header="x-session"))
    rig.both(leader="a", policy=policy)
    await rig.settled()
    sessions = [f"s{number}" for number in range(40)]
    homes = {each: await rig.client.answered_by(x_session=each) for each in sessions}
    assert set(homes.values()) == {"a", "b"}
    rig.a.wire.cut()
    answers = await asyncio.gather(*(rig.client.answered_by(x_session=each) for each in sessions))
    assert set(answers) == {"b"}


async def test_a_request_that_crashes_its_server_reaches_two_at_most() -> None:
    """Even without a quarantine, which would identify the request."""
    async with Rig.running("DELTA_GRPC", quarantine=0.0) as rig:
        tritons = [rig.a, rig.b, *await rig.join("c")]
        for policy in (UNHURRIED, shared()):
            instances = (each.instance() for each in tritons)
            rig.control_plane.publish(*instances, leader="a", policy=policy)
            await rig.settled(3)
            for each in tritons:
                each.die_on_request = True
            assert await status_of(rig) == CODE.UNAVAILABLE
            assert sum(each.die_on_request for each in tritons) == 1


async def test_a_request_that_is_not_idempotent_is_not_retried_once_it_arrived(rig: Rig) -> None:
    policy = replace(
        UNHURRIED, retry=Retry(idempotent=False), limits=Limits(per_try_idle_timeout=2.0)
    )
    rig.both(leader="a", policy=policy)
    await rig.settled()
    rig.a.fails, before = {BAD: CODE.INTERNAL}, attempts(rig)
    assert await status_of(rig) == CODE.INTERNAL
    rig.a.die_on_request = True
    assert await status_of(rig, b"x") == CODE.UNAVAILABLE
    assert attempts(rig) == before + 2
    # Where nothing listens, the request certainly never arrived.
    rig.a.wire.cut()
    assert set(await rig.client.count(10)) == {"b"}


async def test_a_policy_limits_the_status_codes_that_are_retried(rig: Rig) -> None:
    retry = Retry(retryable_status_codes=(StatusCode.UNAVAILABLE,))
    rig.both(leader="a", policy=replace(UNHURRIED, retry=retry))
    await rig.settled()
    rig.a.fails = {BAD: CODE.INTERNAL, b"x": CODE.UNAVAILABLE}
    assert await status_of(rig) == CODE.INTERNAL
    assert await rig.client.answered_by() == "b"


async def test_methods_that_change_a_server_are_denied_unless_a_policy_admits_them(
    rig: Rig,
) -> None:
    call = rig.client.unload(b"", timeout=PATIENCE)
    assert await call.code() == CODE.PERMISSION_DENIED
    assert "admission.methods" in await call.details()
    assert (rig.a.orders, rig.b.orders) == (0, 0)
    rig.both(leader="a", policy=replace(UNHURRIED, admission=Admission((UNLOAD,))))
    await rig.settled()
    assert await rig.client.unload(b"", timeout=PATIENCE) == b"a"
    # A failed order may have been executed, so it is not retried on another instance.
    rig.a.fails = {ANY: CODE.INTERNAL}
    assert await rig.client.unload(b"", timeout=PATIENCE).code() == CODE.INTERNAL
    assert (rig.a.orders, rig.b.orders) == (2, 0)
