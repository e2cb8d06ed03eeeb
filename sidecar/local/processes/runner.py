"""The runner of one part: starts it, probes it, restarts it when it dies, stops it.

Acts: asyncio, time.
"""

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

# Seconds. The back-off starts over for a part that ran longer than _STEADY.
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 15.0
_STEADY = 30.0
# How often a part may die before the mesh is up.
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
    """One part, across restarts. `changed` is called at each change of `state`."""

    def __init__(
        self, part: Part, clock: Clock, *, restart: bool, changed: Callable[[], None]
    ) -> None:
        self.part = part
        self.state = Latest(PartState(part.name, part.kind, part.address, part.log))
        self._clock = clock
        self._restart = restart
        self._changed = changed
        self._process: Process | None = None
        self._start_error: str | None = None
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()

    async def run(self) -> None:
        """Keep the part running until `stop` or `kill`."""
        self._ended.clear()
        deaths = 0
        try:
            while not self._stopping.is_set():
                started = self._clock.now()
                await self._run_once()
                if self._stopping.is_set():
                    break
                steady = self._clock.now() - started > _STEADY
                deaths = 1 if steady else deaths + 1
                if not self._restart:
                    self._update(condition="dead")
                    await self._stopping.wait()
                    break
                restarts = self.state.value.restarts + 1
                self._update(condition="restarting", restarts=restarts)
                await first_of(self._clock, pause(deaths), self._stopping.wait())
        finally:
            self.kill()
            self._update(condition="stopped", process=None)
            self._ended.set()

    async def until_running(self) -> None:
        """Wait until the part is up for the first time.

        Raises:
            StartFailed: it died too often, or its `start_timeout` passed.
        """
        timeout = self.part.start_timeout
        try:
            async with asyncio.timeout(timeout):
                async for state in self.state:
                    if state.condition == "running":
                        return
                    if state.condition in ("dead", "stopped") or state.restarts >= TRIES:
                        raise StartFailed(
                            self.part.name, self._start_error or _exit_text(state.exit)
                        )
        except TimeoutError:
            why = f"started, but did not come up within {timeout:g} s"
            try:
                await part_probe.check(self.part.probe)
            except Unavailable as error:
                why += f" ({error})"
            raise StartFailed(self.part.name, why) from None

    async def stop(self) -> None:
        """Stop the part gracefully, or kill it after its `stop_timeout`."""
        self._stopping.set()
        if self._process is not None:
            self._update(condition="stopping")
            self._process.terminate()
        try:
            async with asyncio.timeout(self.part.stop_timeout):
                await self._ended.wait()
        except TimeoutError:
            self.kill()
            await self._ended.wait()

    def hurry(self) -> None:
        """Have a stopping part skip waiting; only a sidecar supports that."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """Kill the part with all it started, and do not restart it."""
        self._stopping.set()
        if self._process is not None:
            self._process.kill()

    async def _run_once(self) -> None:
        try:
            process = self._process = Process(self.part)
        except PartMissing as error:  # perhaps it is being replaced
            self._start_error = str(error)
            return
        self._update(condition="starting", process=process.identity, since=time.time(), exit=None)
        watch = asyncio.create_task(self._watch(), name=f"watch {self.part.name}")
        try:
            code = await process.wait()
        finally:
            watch.cancel()
        self._process = None
        self._update(process=None, exit=code)

    async def _watch(self) -> None:
        await part_probe.until(self.part.probe)
        if not self._stopping.is_set():
            self._update(condition="running")

    def _update(self, **changes: object) -> None:
        self.state.set(dataclasses.replace(self.state.value, **changes))  # type: ignore[arg-type]
        self._changed()


def _exit_text(code: int | None) -> str:
    if code is None:
        return "was stopped"
    return f"killed by signal {-code}" if code < 0 else f"exited with code {code}"
