"""The lifecycle of a process: its loops, its signals, systemd notification, a graceful stop.

Every step of stopping has a deadline, and a failing step never skips the rest.

Acts: asyncio, os, signal, time.
"""

import asyncio
import functools
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sdnotify

from sidecar.events import Event, Reloaded, StepDone
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import ConfigError, SidecarError

_WATCHDOG = 5.0  # seconds between keep-alives to systemd, well below the units' WatchdogSec
_OTHER_STEPS = 45.0  # seconds that the other steps of a sidecar's stop may take
_MARGIN = 10.0  # seconds that systemd is asked for beyond a step's deadline


@dataclass(frozen=True, slots=True)
class Step:
    """One step; it is cancelled after `timeout` seconds, or, if `skippable`, by a second signal."""

    name: str
    run: Callable[[], Awaitable[object]]
    timeout: float
    skippable: bool = False


Tasks = Sequence[asyncio.Task[None]]
Hook = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """What a process does from its start to its end.

    `status` is one line for `systemctl status`. `reload` applies changed settings and returns what
    changed; if it cannot, it raises ConfigError and changes nothing. `stop` returns the steps of a
    graceful stop, which must cancel the tasks too.
    """

    loops: Mapping[str, Callable[[], Coroutine[Any, Any, None]]]
    status: Callable[[], str]
    reload: Callable[[], Awaitable[str]]
    stop: Callable[[Tasks], Iterable[Step]]


async def run_until_stopped(life: Lifecycle, clock: Clock, hook: Hook) -> int:
    """Run the loops until SIGTERM or SIGINT, then stop gracefully; returns the exit status.

    A second signal skips the steps that only wait. SIGHUP reloads.

    Raises:
        SidecarError: a loop ended on its own, which is a defect; the steps were run.
    """
    signals = _Signals()
    status = _Status(life.status)
    tasks = [
        *(asyncio.create_task(loop(), name=name) for name, loop in life.loops.items()),
        asyncio.create_task(_watchdog(status, clock), name="watchdog"),
    ]
    reloading = asyncio.create_task(_reload(life, signals.reload, status, hook), name="reload")
    stop = asyncio.create_task(signals.stop.wait())
    _notify("READY=1")
    await asyncio.wait((stop, reloading, *tasks), return_when=asyncio.FIRST_COMPLETED)
    _notify("STOPPING=1")
    stop.cancel()
    await run_steps(_extending_timeout(life.stop(tasks)), signals.skip, clock, hook)
    reloading.cancel()
    for task in (reloading, *tasks):
        if task.done() and not task.cancelled():
            task.result()
            raise SidecarError(f"loop {task.get_name()!r} ended unexpectedly")
    return 0


def stop_timeout_problem(drain: float, environ: Mapping[str, str]) -> str:
    """Why Triton's unit would not wait for the sidecar's drain; empty if it does.

    `drain` is the longest time that a drain may take, in seconds. The sidecar's unit sets
    TRITON_STOP_TIMEOUT to how long Triton's unit waits; without it there is nothing to compare.
    """
    try:
        granted = float(environ.get("TRITON_STOP_TIMEOUT", ""))
    except ValueError:
        return ""
    needed = drain + _OTHER_STEPS
    if needed <= granted:
        return ""
    return (
        f"drain.timeout is {drain:g} s, and Triton's unit waits for {granted:g} s: set its "
        f"TimeoutStopSec= to {needed:g} or more, and TRITON_STOP_TIMEOUT of the sidecar's too"
    )


async def cancel_all(tasks: Tasks) -> None:
    """Cancel tasks and wait until they end."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def run_steps(steps: Iterable[Step], skip: asyncio.Event, clock: Clock, hook: Hook) -> None:
    """Run the steps one after another, each to its end, its deadline or its failure.

    Raises:
        ExceptionGroup: steps, or hooks called for them, failed because of defects; all steps were
            run.
    """
    defects: list[Exception] = []
    for step in steps:
        began = clock.now()
        try:
            error = await _run_step(step, skip)
        except Exception as defect:  # noqa: BLE001  # raised at the end: nothing skips the rest
            error = repr(defect)
            defects.append(defect)
        try:
            hook(StepDone(step.name, clock.now() - began, error))
        except Exception as defect:  # noqa: BLE001  # likewise
            defects.append(defect)
    if defects:
        raise ExceptionGroup("shutdown steps failed", defects)


async def _run_step(step: Step, skip: asyncio.Event) -> str:
    """Run a step; returns what went wrong, or ""."""
    work = asyncio.ensure_future(step.run())
    skipped = asyncio.ensure_future(skip.wait())
    watched = {work, skipped} if step.skippable else {work}
    try:
        done, _ = await asyncio.wait(
            watched, timeout=step.timeout, return_when=asyncio.FIRST_COMPLETED
        )
        if work in done:
            work.result()
            return ""
        return "skipped by a second signal" if done else f"timed out after {step.timeout:g} s"
    except (SidecarError, OSError) as error:
        return str(error)
    finally:
        work.cancel()
        skipped.cancel()


class _Signals:
    """SIGTERM and SIGINT: the first stops, the second skips waiting. SIGHUP reloads."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.skip = asyncio.Event()
        self.reload = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, self.reload.set)
        # Deliver a stop that was requested during the start.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def _end(self) -> None:
        (self.skip if self.stop.is_set() else self.stop).set()


def _extending_timeout(steps: Iterable[Step]) -> Iterator[Step]:
    """The steps; before each, systemd is asked to wait for as long as it may take.

    Otherwise systemd would kill after TimeoutStopSec=, regardless of our deadlines; it never waits
    for less. Source: sd_notify(3).
    """
    for step in steps:
        _notify(f"EXTEND_TIMEOUT_USEC={round((step.timeout + _MARGIN) * 1e6)}")
        yield step


class _Status:
    """The line for `systemctl status`, with why the last reload was refused, if it was."""

    def __init__(self, status: Callable[[], str]) -> None:
        self._status = status
        self._refused = ""

    def refused(self, why: str) -> None:
        """Show why the last reload was refused; an empty `why` clears it."""
        self._refused = " ".join(why.split())
        _notify(f"STATUS={self}")

    def __str__(self) -> str:
        status = self._status()
        return f"{status}; reload refused: {self._refused}" if self._refused else status


async def _reload(life: Lifecycle, requested: asyncio.Event, status: _Status, hook: Hook) -> None:
    while True:
        await requested.wait()
        requested.clear()
        # Source of the protocol: sd_notify(3).
        _notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        why = ""
        try:
            hook(Reloaded(await life.reload()))
        except ConfigError as error:
            why = str(error)
        except Exception as defect:  # noqa: BLE001  # the process keeps its old settings
            why = f"bug in the sidecar: {defect!r}"
        if why:
            hook(Reloaded("nothing", why))
        status.refused(why)
        _notify("READY=1")


async def _watchdog(status: _Status, clock: Clock) -> None:
    """Tell systemd that the event loop is alive."""
    while True:
        _notify(f"WATCHDOG=1\nSTATUS={status}")
        await clock.sleep(_WATCHDOG)


def _notify(message: str) -> None:
    if "NOTIFY_SOCKET" in os.environ:
        _systemd().notify(message)


@functools.cache
def _systemd() -> sdnotify.SystemdNotifier:
    return sdnotify.SystemdNotifier()
