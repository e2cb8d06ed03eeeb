"""The lifecycle of a process: its steps of stopping, its signals and its reload."""

import asyncio
import errno

import pytest

from sidecar.events import (
    Event,
    StepDone,
)
from sidecar.lifecycle import Lifecycle, Step, cancel_all, run_steps, run_until_stopped
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.errors import SidecarError, Unavailable
from tests.support.virtual_clock import VirtualClock

PATIENCE = 60.0  # seconds; machines are shared


async def performed(*steps: Step, skip: bool = False) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    skipping = asyncio.Event()
    if skip:
        skipping.set()

    def hook(event: Event) -> None:
        assert isinstance(event, StepDone)
        found.append((event.step, event.error))

    await run_steps(steps, skipping, VirtualClock(), hook)
    return found


async def nothing() -> str:
    return ""


async def fine() -> None:
    pass


async def broken() -> None:
    raise Unavailable("Consul is gone")


async def endless() -> None:
    await asyncio.Event().wait()


async def test_a_step_that_fails_or_hangs_does_not_skip_the_rest() -> None:
    assert await performed(Step("a", broken, 5), Step("b", endless, 0.01), Step("c", fine, 5)) == [
        ("a", "Consul is gone"),
        ("b", "timed out after 0.01 s"),
        ("c", ""),
    ]


async def test_a_second_signal_skips_waiting_but_no_other_step() -> None:
    assert await performed(
        Step("wait", endless, 60, skippable=True), Step("deregister", fine, 5), skip=True
    ) == [("wait", "skipped by a second signal"), ("deregister", "")]


async def test_a_defect_in_a_step_is_raised_after_the_other_steps_have_run() -> None:
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

    async def ends_early() -> None:
        pass

    async def note() -> None:
        stopped.append(True)

    life = Lifecycle(
        loops={"short": ends_early, "long": endless},
        status=lambda: "",
        reload=nothing,
        stop=lambda tasks: [
            Step("note", note, 5),
            Step("end", lambda: cancel_all(tasks), 5),
        ],
    )
    with pytest.raises(SidecarError, match="'short' ended unexpectedly"):
        await run_until_stopped(life, VirtualClock(), lambda event: None)
    assert stopped == [True]
