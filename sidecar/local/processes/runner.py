"""Keeps one part running: starts it, sees it work, starts it again after it died, stops it."""

import asyncio
import dataclasses
import time
from collections.abc import Callable

from sidecar.local.planning.plan import Part
from sidecar.local.processes import part_probe
from sidecar.local.processes.process import Process
from sidecar.local.processes.state_file import PartState
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import PartMissing, SidecarError, Unavailable
from sidecar.runtime.latest import Latest, first_of

# Seconds. A part that ran longer than _STEADY begins with the shortest pause again.
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 15.0
_STEADY = 30.0
# As often may a part die before the mesh has come up once.
TRIES = 3


class StartFailed(SidecarError):
    """A part of the mesh did not come up. `part` is its name."""

    def __init__(self, part: str, why: str) -> None:
        super().__init__(f"{part}: {why}")
        self.part = part


def pause(deaths: int) -> float:
    """Seconds to wait after that many deaths in quick succession (1 or more)."""
    return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** (deaths - 1))


class Runner:
    """One part through its lives. `changed` is called at each change of `state`."""

    def __init__(
        self, part: Part, clock: Clock, *, restart: bool, changed: Callable[[], None]
    ) -> None:
        self.part = part
        self.state = Latest(PartState(part.name, part.kind, part.address, part.log))
        self._clock = clock
        self._restart = restart
        self._changed = changed
        self._process: Process | None = None
        self._trouble: str | None = None
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()

    async def run(self) -> None:
        """Keep it running until `stop` or `kill`."""
        self._ended.clear()
        deaths = 0
        try:
            while not self._stopping.is_set():
                started = self._clock.now()
                await self._live()
                if self._stopping.is_set():
                    break
                steady = self._clock.now() - started > _STEADY
                deaths = 1 if steady else deaths + 1
                if not self._restart:
                    self._note(condition="dead")
                    await self._stopping.wait()
                    break
                restarts = self.state.value.restarts + 1
                self._note(condition="restarting", restarts=restarts)
                await first_of(self._clock, pause(deaths), self._stopping.wait())
        finally:
            self.kill()
            self._note(condition="stopped", process=None)
            self._ended.set()

    async def until_running(self) -> None:
        """Wait until it works for the first time.

        Raises:
            StartFailed: it died too often, or the part's `start_timeout` passed.
        """
        timeout = self.part.start_timeout
        try:
            async with asyncio.timeout(timeout):
                async for state in self.state:
                    if state.condition == "running":
                        return
                    if state.condition in ("dead", "stopped") or state.restarts >= TRIES:
                        raise StartFailed(self.part.name, self._trouble or _exit_text(state.exit))
        except TimeoutError:
            why = f"started, but did not come up within {timeout:g} s"
            try:
                await part_probe.check(self.part.probe)
            except Unavailable as error:
                why += f" ({error})"
            raise StartFailed(self.part.name, why) from None

    async def stop(self) -> None:
        """Stop it gracefully, or by force after the part's `stop_timeout`."""
        self._stopping.set()
        if self._process is not None:
            self._note(condition="stopping")
            self._process.terminate()
        try:
            async with asyncio.timeout(self.part.stop_timeout):
                await self._ended.wait()
        except TimeoutError:
            self.kill()
            await self._ended.wait()

    def hurry(self) -> None:
        """Tell a part that is stopping to skip waiting; only a sidecar knows what that is."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """Kill it with all it started, and do not start it again."""
        self._stopping.set()
        if self._process is not None:
            self._process.kill()

    async def _live(self) -> None:
        try:
            process = self._process = Process(self.part)
        except PartMissing as error:  # perhaps it is just being replaced
            self._trouble = str(error)
            return
        self._note(condition="starting", process=process.identity, since=time.time(), exit=None)
        watch = asyncio.create_task(self._watch(), name=f"watch {self.part.name}")
        try:
            code = await process.wait()
        finally:
            watch.cancel()
        self._process = None
        self._note(process=None, exit=code)

    async def _watch(self) -> None:
        await part_probe.until(self.part.probe)
        if not self._stopping.is_set():
            self._note(condition="running")

    def _note(self, **changes: object) -> None:
        self.state.set(dataclasses.replace(self.state.value, **changes))  # type: ignore[arg-type]
        self._changed()


def _exit_text(code: int | None) -> str:
    if code is None:
        return "was stopped"
    return f"killed by signal {-code}" if code < 0 else f"exited with code {code}"
