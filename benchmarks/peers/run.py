"""One design under one fault, under load: from empty namespaces to what clients noticed."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.design import Design, with_hosts
from benchmarks.peers.faults import Fault
from benchmarks.peers.figures import Seen, seen
from benchmarks.peers.hosts import Hosts
from benchmarks.peers.hosts import hosts as hosts_of
from sidecar.drill.load.process import RunningLoad
from sidecar.drill.load.spec import OpenLoop
from sidecar.runtime.errors import Unavailable

SPEC = OpenLoop(rate=40.0, streams=0, connections=8, in_flight=1000)
CALM = 10.0  # seconds of undisturbed load before the injection
BUSY = 0.5  # seconds of p99 before the injection, beyond which a run measures the machine
_PATIENCE = 90.0  # seconds for such a time to come
_SETUP = 30.0  # seconds that a run takes before and after, about
_LOOK = 0.25


@dataclass(frozen=True, slots=True)
class Rules:
    """How a run is made. `share` of the fault's time is waited: less than 1 tests the wiring."""

    share: float = 1.0
    keep: Path | None = None  # where logs of every run stay


def seconds(fault: Fault, rules: Rules) -> float:
    """About how long a run takes."""
    return fault.lasts * rules.share + CALM + _SETUP


async def run(design: Design, fault: Fault, rules: Rules) -> Seen:
    """Make the run.

    Raises:
        PartMissing: a program is not here, or namespaces cannot be had.
        Unavailable: something did not come up, or an operator's command failed.
    """
    folder = Path(tempfile.mkdtemp(prefix="triton-sidecar-peers-"))
    try:
        async with hosts_of(with_hosts(design, fault.hosts), folder) as hosts:
            found = await _measured(hosts, fault, rules)
    except BaseException:
        _keep(folder, design, fault, rules)
        raise
    _keep(folder, design, fault, rules)
    return found


async def _measured(hosts: Hosts, fault: Fault, rules: Rules) -> Seen:
    began = time.monotonic()
    async with hosts.loaded(SPEC, began=began, seed=0) as running:
        await _calm(running, began)
        victim = await hosts.primary()
        async with caused(fault, hosts, victim) as at:
            await asyncio.sleep(at + fault.lasts * rules.share - time.monotonic())
            removed = time.monotonic()
    found = seen(running.samples, at - began, removed - began)
    if found.p99_before > BUSY and rules.share == 1:
        raise Unavailable(f"the machine is too busy: p99 was {found.p99_before:.1f} s before it")
    return found


@asynccontextmanager
async def caused(fault: Fault, hosts: Hosts, victim: str) -> AsyncIterator[float]:
    """A fault while the context lasts; gives when it was caused, on the monotonic clock."""
    entered = time.monotonic()
    async with fault.inject(hosts, victim) as ago:
        yield entered if ago is None else time.monotonic() - ago


async def _calm(running: RunningLoad, began: float) -> None:
    """Wait until nothing has failed for a while."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        running.check()
        now = time.monotonic() - began
        recent = [one for one in running.samples if one.ended > now - CALM]
        started = running.samples and min(one.due for one in running.samples) < now - CALM
        if started and all(one.outcome == "answered" for one in recent):
            return
        if time.monotonic() > deadline:
            bad = next((one.detail for one in recent if one.outcome != "answered"), "no answer")
            raise Unavailable(f"requests fail before anything is injected: {bad}")
        await asyncio.sleep(_LOOK)


def _keep(folder: Path, design: Design, fault: Fault, rules: Rules) -> None:
    """Keep the logs where they are wanted, and remove the rest."""
    if rules.keep:
        target = rules.keep / f"{design.name.replace('/', '.')}.{fault.name}"
        shutil.rmtree(target, ignore_errors=True)
        wanted = shutil.ignore_patterns("models", "backends", "data", "bin", "run", "temp")
        shutil.copytree(folder, target, ignore=wanted, symlinks=True)
    shutil.rmtree(folder, ignore_errors=True)
