"""The small parts that loops are made of: the cell, the orderly stop, the hooks."""

import asyncio
import time

import pytest
import structlog
from prometheus_client import generate_latest

from sidecar.clock import SystemClock
from sidecar.election.decision import Role
from sidecar.errors import Unavailable
from sidecar.events import Event, Probed, RequestFailed, RoleChanged, StepDone, VerdictChanged
from sidecar.health.verdict import UNPROVEN, Finding, Reason, State, Verdict
from sidecar.latest import Latest
from sidecar.lifecycle import Step, perform
from sidecar.telemetry.logs import LogHook
from sidecar.telemetry.metrics import MetricsHook


async def test_a_slow_reader_sees_the_newest_value_only() -> None:
    cell = Latest(0)
    seen: list[int] = []

    async def read() -> None:
        async for value in cell:
            seen.append(value)
            await asyncio.sleep(0.05)

    reader = asyncio.create_task(read())
    await asyncio.sleep(0)
    for value in range(1, 100):
        cell.set(value)
    await asyncio.sleep(0.3)
    reader.cancel()
    assert seen == [0, 99]


async def test_an_equal_value_is_no_change() -> None:
    cell = Latest("a")
    cell.set("a")
    assert cell.version == 0
    cell.set("b")
    assert await cell.changed(0) == (1, "b")


async def test_every_reader_is_woken() -> None:
    cell = Latest(0)
    readers = [asyncio.create_task(cell.changed(0)) for _ in range(3)]
    await asyncio.sleep(0)
    cell.set(5)
    assert await asyncio.gather(*readers) == [(1, 5)] * 3


async def performed(*steps: Step, skip: bool = False) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    skipping = asyncio.Event()
    if skip:
        skipping.set()

    def hook(event: Event) -> None:
        assert isinstance(event, StepDone)
        found.append((event.step, event.error))

    await perform(steps, skipping, SystemClock(), hook)
    return found


async def fine() -> None:
    pass


async def broken() -> None:
    raise Unavailable("Consul is gone")


async def endless() -> None:
    await asyncio.sleep(3600)


async def test_a_step_that_fails_or_hangs_never_skips_the_rest() -> None:
    assert await performed(Step("a", broken, 5), Step("b", endless, 0.01), Step("c", fine, 5)) == [
        ("a", "Consul is gone"),
        ("b", "not done within 0.01 s"),
        ("c", ""),
    ]


async def test_a_second_signal_skips_waiting_but_no_other_step() -> None:
    assert await performed(
        Step("wait", endless, 60, skippable=True), Step("deregister", fine, 5), skip=True
    ) == [("wait", "skipped by a second signal"), ("deregister", "")]


async def test_a_defect_in_a_step_is_not_swallowed() -> None:
    async def defect() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await performed(Step("a", defect, 5))


def test_metrics_follow_events() -> None:
    hook = MetricsHook([role.value for role in Role])
    passing = Verdict(State.PASSING, Reason.OK)
    hook(Probed((Finding("canary", "chat", Reason.OK, "", 0.003),), 0.01))
    hook(VerdictChanged(UNPROVEN, passing))
    hook(RoleChanged("standby", "primary", 42, "the lock was free"))
    hook(RequestFailed("consul", "session/renew", Unavailable("gone")))
    text = generate_latest(hook.registry).decode()
    for line in (
        'triton_sidecar_verdict{triton_sidecar_verdict="passing"} 1.0',
        'triton_sidecar_verdict{triton_sidecar_verdict="starting"} 0.0',
        'triton_sidecar_role{triton_sidecar_role="primary"} 1.0',
        "triton_sidecar_epoch 42.0",
        (
            'triton_sidecar_request_errors_total{error="Unavailable",operation="session/renew",'
            'system="consul"} 1.0'
        ),
        'triton_sidecar_probe_seconds_count{layer="canary",model="chat",reason="OK"} 1.0',
    ):
        assert line in text


def test_a_failure_that_repeats_itself_is_a_warning_once() -> None:
    failed = RequestFailed("consul", "txn", Unavailable("gone"))
    with structlog.testing.capture_logs() as logs:
        hook = LogHook(structlog.get_logger())
        for _ in range(3):
            hook(failed)
        hook(RequestFailed("consul", "txn", Unavailable("another reason")))
    levels = [entry["log_level"] for entry in logs]
    assert levels == ["warning", "debug", "debug", "warning"]


def test_the_clock_counts_while_a_process_is_stopped() -> None:
    clock = SystemClock()
    before = clock.now()
    time.sleep(0.01)
    assert clock.now() > before
    assert 9 <= clock.jitter(10, 0.1) <= 11
