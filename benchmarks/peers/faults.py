"""The faults: the injections of this project's drills, where they mean the same for every design.

Each is an async context on the hosts, which removes the fault when it ends. What is measured begins
when it is entered, so nothing here waits before it causes the fault; if it has to, the context
gives how many seconds ago the fault was caused. A drill's own freezes and misbehaving models arm a
dead man's switch first, which takes half a second: not here, where all hosts end with the run.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from benchmarks.peers.hosts import Hosts
from benchmarks.peers.site import LOADING, SERVED
from sidecar.drill.injections import consul, hosts, load, models, processes
from sidecar.drill.load.spec import OpenLoop
from sidecar.drill.misbehaving_models import STREAM, UNARY
from sidecar.drill.scenario import Injection, Violated

OVERLOAD = 3.0  # times what one Triton can answer
_CAPACITY = 180.0  # requests a second that one Triton answers, each in 5 ms
_MAINTENANCE = 15.0  # seconds between a switchover and the restart that it was for
_CONSUL_GONE = 20.0  # seconds without Consul until the crash
_SURVIVORS = 3  # hosts of which one survives two victims


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of one host, or of all.

    Attributes:
        name, title: what is typed, and a few words for the table.
        inject: causes it.
        lasts: seconds until it is removed, and during which is measured.
        parallel: whether other runs may go on; otherwise it takes the whole machine.
        hosts: how many are needed; a design with fewer gets further ones.
    """

    name: str
    title: str
    inject: Injection[Hosts]
    lasts: float = 120.0
    parallel: bool = True
    hosts: int = 2


@asynccontextmanager
async def frozen(stage: Hosts, victim: str) -> AsyncIterator[None]:
    """SIGSTOP to tritonserver and all its processes."""
    group = stage.pid(victim)
    os.killpg(group, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # the design killed it
            os.killpg(group, signal.SIGCONT)


def misbehaving(**control: object) -> Injection[Hosts]:
    """All models that clients ask show a fault, and take as long to load as before.

    Both begin at once, and first the one that designs check.
    """

    @asynccontextmanager
    async def ordered(stage: Hosts, victim: str) -> AsyncIterator[None]:
        _write_controls(stage, victim, {**control, "load_seconds": LOADING})
        try:
            yield
        finally:
            _write_controls(stage, victim, {"load_seconds": LOADING})

    return ordered


def _write_controls(stage: Hosts, victim: str, control: object) -> None:
    for model in (UNARY, STREAM):
        models.write_control(stage, victim, model, control)


@asynccontextmanager
async def consul_gone_crash(stage: Hosts, victim: str) -> AsyncIterator[float]:
    """Consul's servers are gone for 20 s, and then Triton crashes."""
    async with consul.servers_gone(stage, victim):
        await asyncio.sleep(_CONSUL_GONE)
        crashed = time.monotonic()
        async with processes.triton_killed(stage, victim):
            yield time.monotonic() - crashed


@asynccontextmanager
async def stubs_killed(stage: Hosts, victim: str) -> AsyncIterator[None]:
    """The processes in which Triton runs its models die; whether they are reloaded is measured."""
    processes.kill_stubs(stage, victim, SERVED)
    yield


@asynccontextmanager
async def switchover(stage: Hosts, victim: str) -> AsyncIterator[None]:
    """The operator moves traffic away, and then restarts that Triton."""
    await stage.switch_over(victim)

    async def maintain() -> None:
        await asyncio.sleep(_MAINTENANCE)
        stage.restart(victim)

    maintaining = asyncio.create_task(maintain())
    try:
        yield
    finally:
        maintaining.cancel()


@asynccontextmanager
async def overload(stage: Hosts, victim: str) -> AsyncIterator[None]:
    """Further clients send three times what a Triton can answer."""
    spec = OpenLoop(rate=OVERLOAD * _CAPACITY, streams=0, connections=16, in_flight=2000)
    async with stage.loaded(spec, began=time.monotonic(), seed=1):
        yield


@asynccontextmanager
async def query_of_death(stage: Hosts, victim: str) -> AsyncIterator[None]:
    """A client repeats a request that kills the Triton which executes it, however many it kills."""
    with suppress(Violated):
        async with load.query_of_death(stage, victim):
            yield


FAULTS = (
    Fault("crash", "crash", processes.triton_killed),
    Fault("freeze", "freeze (SIGSTOP)", frozen),
    Fault("hung_model", "hung model", misbehaving(fault="hang", until_restart=True)),
    Fault("wrong_answers", "wrong answers", misbehaving(fault="wrong")),
    Fault("stubs_killed", "all stubs killed", stubs_killed),
    Fault("switchover", "planned switchover", switchover, lasts=60.0),
    Fault("consul_gone_crash", "Consul gone, then crash", consul_gone_crash),
    Fault("partition", "host cut off", hosts.cut_off("both")),
    Fault("overload", "3x overload", overload, lasts=60.0, parallel=False),
    Fault("query_of_death", "query of death", query_of_death, lasts=60.0, hosts=_SURVIVORS),
)
