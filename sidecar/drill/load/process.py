"""A load in a separate process, so that measuring does not disturb what is measured.

    async with load(spec, address, reference, Place(folder / "load.log")) as running:
        ...
        running.check()
        print(len(running.samples))

Acts: asyncio, os, signal, time.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sidecar.drill.load.messages import Counts, Order, Report, order_line, read_report
from sidecar.drill.load.spec import LoadSpec
from sidecar.drill.samples import Sample
from sidecar.health.canary.definition import Canary
from sidecar.runtime.errors import ConfigError, Unavailable

_LINE = 1 << 26  # bytes of a report
_START = 60.0  # seconds until the first report
_END = 90.0  # seconds for the requests that are held or in flight


@dataclass(frozen=True, slots=True)
class Place:
    """Where the process of a load runs.

    Attributes:
        log: a file for what it complains about.
        inside: what to put before a command so that it runs in a network namespace.
        env: its environment; None for this process's.
    """

    log: Path
    inside: Sequence[str] = ()
    env: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a load asks.

    Attributes:
        canaries: questions to the user's models; without them it asks the demo models,
        cached: and the one whose answers Triton caches only if this is set.
    """

    canaries: Sequence[Canary] = ()
    cached: bool = False


DEMO_MODELS = Asked()


class RunningLoad:
    """The samples of a load, in the order in which requests ended, and its counts.

    `settled` is whether the load has ended, with every request answered or failed.
    """

    def __init__(self, log: Path) -> None:
        self.samples: list[Sample] = []
        self.counts = Counts()
        self.settled = False
        self._log = log
        self._broken: Exception | None = None

    def check(self) -> None:
        """Check that the process lives, or has ended as it should.

        Raises:
            Unavailable: it has died; what it measured since is lost.
        """
        if self._broken:
            raise self._broken

    async def follow(self, process: asyncio.subprocess.Process, ready: asyncio.Event) -> None:
        """Read the reports of a process until it ends; `ready` is set at the first."""
        try:
            while process.stdout and (line := await process.stdout.readline()):
                self._read(read_report(line))
                ready.set()
            status = await process.wait()
            if not self.settled or status:
                how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
                self._breaks(
                    Unavailable(f"the load's process died ({how}); its log is {self._log}")
                )
        except ValueError as error:
            self._breaks(Unavailable(f"the load's process died; its log is {self._log}: {error}"))
        finally:
            ready.set()

    def _read(self, report: Report) -> None:
        self.samples += report.samples
        self.counts = report.counts
        self.settled = report.ended
        if report.error:
            self._breaks((ConfigError if report.mistaken else Unavailable)(report.error))

    def _breaks(self, error: Exception) -> None:
        self._broken = self._broken or error


@asynccontextmanager
async def load(
    spec: LoadSpec,
    address: str,
    reference: str,
    place: Place,
    *,
    seed: int = 0,
    began: float | None = None,
    asked: Asked = DEMO_MODELS,
) -> AsyncIterator[RunningLoad]:
    """A load that runs while the context lasts, at the lowest priority.

    It begins when the clients are ready. When the context ends, requests in flight are finished and
    are samples too; if it ends with an error, the process is killed.

    Args:
        spec: which load.
        address: host:port that the clients connect to.
        reference: host:port of a Triton whose answers count as right; of any server that describes
            the models, if canaries are `asked`.
        place: where the process runs.
        seed: determines the schedule of an open loop.
        began: when the drill began, on the monotonic clock; by default now. Samples count from it.
        asked: the questions.

    Raises:
        ConfigError: the load or the canaries do not fit the models.
        Unavailable: the reference does not answer, or the process has died.
    """
    start = time.monotonic() if began is None else began
    about = tuple(asked.canaries), asked.cached
    order = Order(str(spec), address, reference, start, seed, *about)
    running, ready = RunningLoad(place.log), asyncio.Event()
    process = await _start(place)
    following = asyncio.create_task(running.follow(process, ready))
    try:
        await _order(process, order)
        await _within(_START, ready.wait(), f"the load did not begin within {_START:g} s", place)
        running.check()
        yield running
        if process.stdin:
            process.stdin.close()
        await _within(_END, following, f"the load did not end within {_END:g} s", place)
        running.check()
    finally:
        following.cancel()
        _kill(process)
        await process.wait()


async def _start(place: Place) -> asyncio.subprocess.Process:
    with place.log.open("ab") as stderr:
        return await asyncio.create_subprocess_exec(
            *(*place.inside, sys.executable, "-m", "sidecar.drill.load"),
            env=place.env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            limit=_LINE,
            start_new_session=True,  # Ctrl-C is the drill's, which ends the load itself
        )


async def _order(process: asyncio.subprocess.Process, order: Order) -> None:
    if process.stdin:
        with suppress(ConnectionError):  # it has died: `check` says so
            process.stdin.write(order_line(order))
            await process.stdin.drain()


async def _within(seconds: float, awaited: Awaitable[object], failed: str, place: Place) -> None:
    try:
        async with asyncio.timeout(seconds):
            await awaited
    except TimeoutError:
        raise Unavailable(f"{failed}; its log is {place.log}") from None


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
