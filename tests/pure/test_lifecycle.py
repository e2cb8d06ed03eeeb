"""The small parts that loops are made of: the cell, the orderly stop, the hooks."""

import asyncio
import errno
import os
import signal

import pytest
import structlog
from prometheus_client import generate_latest

from sidecar.election.lease import Role
from sidecar.events import (
    CanarySent,
    Event,
    Probed,
    RecoveryActed,
    RecoveryDecided,
    Reloaded,
    RequestFailed,
    RoleChanged,
    StepDone,
    VerdictChanged,
)
from sidecar.lifecycle import Lifecycle, Step, cancel_all, run_steps, run_until_stopped
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.errors import ConfigError, SidecarError, Unavailable
from sidecar.runtime.latest import Latest, first_of
from sidecar.telemetry.logs import LogHook
from sidecar.telemetry.metrics import MetricsHook
from sidecar.verdict.evidence import Finding, Layer, Reason
from sidecar.verdict.verdict import UNPROVEN, Verdict
from sidecar.verdict.verdict_line import State
from tests.support.virtual_clock import settle

PATIENCE = 60.0  # seconds; machines are shared


async def test_a_slow_reader_sees_the_newest_value_only() -> None:
    cell = Latest(0)
    seen: list[int] = []
    go_on = asyncio.Event()

    async def read() -> None:
        async for value in cell:
            seen.append(value)
            await go_on.wait()

    reader = asyncio.create_task(read())
    await asyncio.sleep(0)
    for value in range(1, 100):
        cell.set(value)
    go_on.set()
    await settle()
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

    await run_steps(steps, skipping, SystemClock(), hook)
    return found


async def nothing() -> str:
    return ""


async def fine() -> None:
    pass


async def broken() -> None:
    raise Unavailable("Consul is gone")


async def endless() -> None:
    await asyncio.sleep(3600)


async def test_a_step_that_fails_or_hangs_never_skips_the_rest() -> None:
    assert await performed(Step("a", broken, 5), Step("b", endless, 0.01), Step("c", fine, 5)) == [
        ("a", "Consul is gone"),
        ("b", "timed out after 0.01 s"),
        ("c", ""),
    ]


async def test_a_second_signal_skips_waiting_but_no_other_step() -> None:
    assert await performed(
        Step("wait", endless, 60, skippable=True), Step("deregister", fine, 5), skip=True
    ) == [("wait", "skipped by a second signal"), ("deregister", "")]


async def test_a_defect_in_a_step_is_raised_after_the_others_have_run() -> None:
    ran = []

    async def defect() -> None:
        raise ZeroDivisionError

    async def last() -> None:
        ran.append("last")

    with pytest.raises(ExceptionGroup) as caught:
        await performed(Step("a", defect, 5), Step("b", last, 5))
    assert caught.group_contains(ZeroDivisionError)
    assert ran == ["last"]


async def test_a_failing_hook_skips_no_step_either() -> None:
    ran = []

    async def last() -> None:
        ran.append("last")

    def hook(event: Event) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ExceptionGroup) as caught:
        await run_steps(
            [Step("a", fine, 5), Step("b", last, 5)], asyncio.Event(), SystemClock(), hook
        )
    assert caught.group_contains(OSError)
    assert ran == ["last"]


async def test_a_loop_that_ends_is_a_defect_and_the_stop_is_still_graceful() -> None:
    stopped = []

    async def over() -> None:
        pass

    async def note() -> None:
        stopped.append(True)

    life = Lifecycle(
        loops={"short": over, "long": endless},
        status=lambda: "",
        reload=nothing,
        stop=lambda tasks: [
            Step("note", note, 5),
            Step("end", lambda: cancel_all(tasks), 5),
        ],
    )
    with pytest.raises(SidecarError, match="'short' ended unexpectedly"):
        await run_until_stopped(life, SystemClock(), lambda event: None)
    assert stopped == [True]


async def test_sigterm_stops_and_sighup_reloads() -> None:
    events: list[Event] = []
    answers: list[str | Exception] = [
        *("health.rise", ConfigError("service.name: no"), ZeroDivisionError("no"))
    ]

    async def reload() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    life = Lifecycle(
        {"long": endless},
        lambda: "",
        reload,
        lambda tasks: [Step("e", lambda: cancel_all(tasks), 5)],
    )

    async def signals() -> None:
        for heard in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
            while len(events) == heard:
                await asyncio.sleep(0.001)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = asyncio.create_task(signals())
    assert await run_until_stopped(life, SystemClock(), events.append) == 0
    await sender
    reloads = [event for event in events if isinstance(event, Reloaded)]
    assert reloads == [
        Reloaded("health.rise"),
        Reloaded("nothing", "service.name: no"),
        Reloaded("nothing", "bug in the sidecar: ZeroDivisionError('no')"),
    ]


async def test_first_of_returns_for_news_or_time_and_leaves_nothing_running() -> None:
    cell = Latest(0)
    await asyncio.wait_for(first_of(SystemClock(), 0.01, cell.changed(0)), PATIENCE)
    cell.set(1)
    await asyncio.wait_for(first_of(SystemClock(), None, cell.changed(0), endless()), PATIENCE)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_metrics_follow_events() -> None:
    hook = MetricsHook([role.value for role in Role])
    passing = Verdict(State.PASSING, Reason.OK)
    hook(Probed((Finding(Layer.CANARY, "chat", Reason.OK, "", 0.003),)))
    hook(CanarySent("chat"))
    hook(RecoveryDecided("give up", "3 actions within an hour", dry_run=False))
    hook(RecoveryDecided("act", "MODEL_HUNG", dry_run=True))
    hook(RecoveryDecided("give up", "3 actions within an hour", dry_run=False))
    hook(Reloaded("nothing", "c.toml: no"))
    hook(RecoveryActed("signal", "MODEL_HUNG", 0.1, "no such process"))
    hook(VerdictChanged(UNPROVEN, passing))
    hook(RoleChanged("standby", "primary", 42, "the lock was free"))
    hook(RequestFailed("consul", "session/renew", Unavailable("gone")))
    text = generate_latest(hook.registry).decode()
    for line in (
        'triton_sidecar_verdict{state="passing"} 1.0',
        'triton_sidecar_verdict{state="starting"} 0.0',
        'triton_sidecar_role{role="primary"} 1.0',
        "triton_sidecar_epoch 42.0",
        'triton_sidecar_recovery{outcome="give up"} 1.0',
        'triton_sidecar_recovery_actions_total{result="error"} 1.0',
        'triton_sidecar_canaries_total{model="chat"} 1.0',
        "triton_sidecar_weight_percent 100.0",
        "triton_sidecar_last_reload_successful 0.0",
        'triton_sidecar_layer_level{layer="canary",model="chat"} 0.0',
        (
            'triton_sidecar_request_errors_total{error="Unavailable",operation="session/renew",'
            'system="consul"} 1.0'
        ),
        'triton_sidecar_probe_seconds_count{layer="canary",model="chat",reason="OK"} 1.0',
    ):
        assert line in text


def test_a_persistent_failure_is_a_warning_once() -> None:
    failed = RequestFailed("consul", "txn", Unavailable("gone"))
    with structlog.testing.capture_logs() as logs:
        hook = LogHook(structlog.get_logger())
        for _ in range(3):
            hook(failed)
        hook(RequestFailed("consul", "txn", Unavailable("another reason")))
    levels = [entry["log_level"] for entry in logs]
    assert levels == ["warning", "debug", "debug", "warning"]


def test_jitter_stays_within_its_fraction() -> None:
    clock = SystemClock()
    assert all(9 <= clock.jitter(10, 0.1) <= 11 for _ in range(100))
