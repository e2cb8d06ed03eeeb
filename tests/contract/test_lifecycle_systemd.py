"""Notifications to systemd while a process runs, reloads and stops."""

import asyncio
import itertools
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sidecar import lifecycle
from sidecar.lifecycle import Step, Tasks, cancel_all, run_until_stopped
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.errors import ConfigError
from tests.support.lifecycles import one_loop


@pytest.fixture
def notifications(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], list[str]]]:
    """The notifications to systemd in order, without keep-alives."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        lifecycle._systemd.cache_clear()

        def read() -> list[str]:
            said = []
            with suppress(BlockingIOError):
                while True:
                    said += systemd.recv(4096).decode().splitlines()
            return [line for line in said if not line.startswith(("WATCHDOG=", "MONOTONIC_"))]

        yield read
        lifecycle._systemd().socket.close()
        lifecycle._systemd.cache_clear()


async def test_systemd_is_asked_to_wait_for_the_steps_of_stopping(
    notifications: Callable[[], list[str]],
) -> None:
    """Otherwise systemd sends SIGKILL after TimeoutStopSec=, in the middle of a longer drain."""
    ended = "EXTEND_TIMEOUT_USEC=15000000"

    def stop(tasks: Tasks) -> Iterator[Step]:
        yield Step("drain", note_notifications, 300.0)
        yield Step("end", lambda: cancel_all(tasks), 5)

    before: list[str] = []

    async def note_notifications() -> None:
        before.extend(notifications())

    life = one_loop(status="fine", stop=stop)
    asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGTERM)
    await run_until_stopped(life, SystemClock(), lambda event: None)
    assert before == ["READY=1", "STATUS=fine", "STOPPING=1", "EXTEND_TIMEOUT_USEC=310000000"]
    assert notifications() == [ended]


async def test_a_rejected_reload_stays_in_the_status_until_the_next_reload_succeeds(
    notifications: Callable[[], list[str]],
) -> None:
    rejection = ConfigError("health.rise:\n expected more")
    life = one_loop(rejection, "health.rise", status="fine")

    async def signals() -> None:
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
            os.kill(os.getpid(), number)
            await asyncio.sleep(0.05)

    sender = asyncio.create_task(signals())
    await run_until_stopped(life, SystemClock(), lambda event: None)
    await sender
    refused = "STATUS=fine; reload refused: health.rise: expected more"
    said = [line for line in notifications() if not line.startswith("EXTEND_")]
    assert [each for each, _ in itertools.groupby(said)] == [
        *("READY=1", "STATUS=fine"),
        *("RELOADING=1", refused, "READY=1"),
        *("RELOADING=1", "STATUS=fine", "READY=1"),
        "STOPPING=1",
    ]


@pytest.mark.parametrize(
    ("drain", "granted", "problem"),
    [
        (45.0, "90", ""),
        (45.5, "90", "drain.timeout is 45.5 s, and Triton's unit waits for 90 s: "),
        (300.0, "345", ""),
        (300.0, None, ""),
        (300.0, "soon", ""),
    ],
)
def test_a_drain_longer_than_tritons_stop_timeout_is_reported(
    drain: float, granted: str | None, problem: str
) -> None:
    environ = {} if granted is None else {"TRITON_STOP_TIMEOUT": granted}
    assert lifecycle.stop_timeout_problem(drain, environ).startswith(problem)
    assert bool(lifecycle.stop_timeout_problem(drain, environ)) == bool(problem)
