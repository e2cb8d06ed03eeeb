"""The faults: the injections of this project's drills, where they mean the same for every design.

Each is an async context on the hosts: it is caused at once, and removed when the context ends.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from benchmarks.peers.hosts import Hosts
from benchmarks.peers.site import LOADING, SERVED
from sidecar.drill.injections import consul, hosts, load, models, processes
from sidecar.drill.injections.pairs import both
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
        takes_a_while: these begin with the injection, not when it is complete.
        parallel: whether other runs may go on; otherwise it takes the whole machine.
        hosts: how many are needed; a design with fewer gets further ones.
    """

    name: str
    title: str
    inject: Injection[Hosts]
    lasts: float = 120.0
    takes_a_while: bool = False
    parallel: bool = True
    hosts: int = 2


def misbehaving(**control: object) -> Injection[Hosts]:
    """All models that clients ask show a fault, and take as long to load as before."""
    told = {**control, "load_seconds": LOADING}
    return both(models.misbehaving(UNARY, **told), models.misbehaving(STREAM, **told), after=0.0)


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
    Fault("freeze", "freeze (SIGSTOP)", processes.triton_frozen),
    Fault("hung_model", "hung model", misbehaving(fault="hang", until_restart=True)),
    Fault("wrong_answers", "wrong answers", misbehaving(fault="wrong")),
    Fault("stubs_killed", "all stubs killed", stubs_killed),
    Fault("switchover", "planned switchover", switchover, lasts=60.0, takes_a_while=True),
    Fault(
        "consul_gone_crash",
        "Consul gone, then crash",
        both(consul.servers_gone, processes.triton_killed, after=_CONSUL_GONE),
    ),
    Fault("partition", "host cut off", hosts.cut_off("both")),
    Fault("overload", "3x overload", overload, lasts=60.0, parallel=False),
    Fault("query_of_death", "query of death", query_of_death, lasts=60.0, hosts=_SURVIVORS),
)
