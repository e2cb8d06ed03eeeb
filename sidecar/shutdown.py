"""Stopping in order: every step has a deadline, and one that fails never skips the rest."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from sidecar.clock import Clock
from sidecar.errors import SidecarError
from sidecar.events import Hook, StepDone


@dataclass(frozen=True, slots=True)
class Step:
    """One step; it is given up after `timeout` seconds, or at once if skipping is asked for."""

    name: str
    run: Callable[[], Awaitable[object]]
    timeout: float
    skippable: bool = False


class StopSignals:
    """SIGTERM and SIGINT: the first asks for an orderly stop, the second to skip waiting."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.skip = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._received)

    def _received(self) -> None:
        (self.skip if self.stop.is_set() else self.stop).set()


async def perform(steps: Iterable[Step], skip: asyncio.Event, clock: Clock, hook: Hook) -> None:
    """Run the steps one after another, each to its end, its deadline or its failure."""
    for step in steps:
        began = clock.now()
        error = await _bounded(step, skip)
        hook(StepDone(step.name, clock.now() - began, error))


async def _bounded(step: Step, skip: asyncio.Event) -> str:
    """Run a step; say what went wrong, or nothing."""
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
        return "skipped by a second signal" if done else f"not done within {step.timeout:g} s"
    except (SidecarError, OSError) as error:
        return str(error)
    finally:
        work.cancel()
        skipped.cancel()
