"""Signals stop and reload a process."""

import asyncio
import os
import signal

from sidecar.cli import run
from sidecar.events import Event, Reloaded
from sidecar.lifecycle import Step, Tasks, cancel_all, run_until_stopped
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.errors import ConfigError
from tests.support.lifecycles import one_loop


async def test_sigterm_stops_and_sighup_reloads() -> None:
    events: list[Event] = []
    life = one_loop("health.rise", ConfigError("service.name: no"), ZeroDivisionError("no"))

    async def signals() -> None:
        for reloads in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
            while len(events) == reloads:
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


async def test_a_stop_requested_during_the_start_is_graceful() -> None:
    """As PID 1 of a container it would never stop: the kernel drops unhandled signals."""
    stopped = []

    async def note() -> None:
        stopped.append(True)

    def stop(tasks: Tasks) -> list[Step]:
        return [Step("note", note, 5), Step("end", lambda: cancel_all(tasks), 5)]

    life = one_loop("", stop=stop)
    run.not_yet_running()
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(60):
        assert await run_until_stopped(life, SystemClock(), lambda event: None) == 0
    assert stopped == [True]
