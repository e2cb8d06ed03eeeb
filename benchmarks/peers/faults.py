"""The faults, each as an async context: it is caused at once, and removed when the context ends."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

from benchmarks.peers.hosts import LOADING, Hosts
from sidecar.drill.load.process import Place, load
from sidecar.drill.load.spec import OpenLoop

OVERLOAD = 3.0  # times what one Triton can answer
_CAPACITY = 180.0  # requests a second that one Triton answers, each in 5 ms
_MAINTENANCE = 15.0  # seconds between a switchover and the restart that it was for

Injection = Callable[[Hosts, int], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of one host.

    `lasts`: seconds until it is removed, and during which is measured; `late`: these begin when the
    injection is complete. One that is not `parallel` takes the whole machine.
    """

    name: str
    title: str
    inject: Injection
    lasts: float = 120.0
    late: bool = False
    parallel: bool = True


@asynccontextmanager
async def crash(hosts: Hosts, victim: int) -> AsyncIterator[None]:
    """SIGKILL to Triton, which comes back and loads its models."""
    hosts.send(f"triton-{victim}", signal.SIGKILL)
    yield


@asynccontextmanager
async def freeze(hosts: Hosts, victim: int) -> AsyncIterator[None]:
    """SIGSTOP to Triton and all that it started."""
    hosts.send(f"triton-{victim}", signal.SIGSTOP)
    try:
        yield
    finally:
        hosts.send(f"triton-{victim}", signal.SIGCONT)


@asynccontextmanager
async def hung_model(hosts: Hosts, victim: int) -> AsyncIterator[None]:
    """No inference ends any more, until Triton is restarted."""
    hosts.tell(victim, fault="hang", until_restart=True)
    try:
        yield
    finally:
        hosts.tell(victim)


@asynccontextmanager
async def wrong_answers(hosts: Hosts, victim: int) -> AsyncIterator[None]:
    """The models answer in time, and wrong."""
    hosts.tell(victim, fault="wrong", load_seconds=LOADING)
    try:
        yield
    finally:
        hosts.tell(victim, load_seconds=LOADING)


@asynccontextmanager
async def stubs_killed(hosts: Hosts, victim: int) -> AsyncIterator[None]:
    """The processes in which Triton runs its models die, and Triton does not."""
    for stub in hosts.stubs(victim):
        with suppress(ProcessLookupError):
            os.kill(stub, signal.SIGKILL)
    yield


@asynccontextmanager
async def switchover(hosts: Hosts, victim: int) -> AsyncIterator[None]:
    """The operator moves traffic away, and then restarts that Triton."""
    await hosts.switch_over(victim)

    async def maintain() -> None:
        await asyncio.sleep(_MAINTENANCE)
        hosts.send(f"triton-{victim}", signal.SIGTERM)

    maintaining = asyncio.create_task(maintain())
    try:
        yield
    finally:
        maintaining.cancel()


@asynccontextmanager
async def consul_gone_crash(hosts: Hosts, victim: int) -> AsyncIterator[None]:
    """Consul's servers are gone for 20 s, and then Triton crashes."""
    hosts.servers_away()
    try:
        await asyncio.sleep(20.0)
        hosts.send(f"triton-{victim}", signal.SIGKILL)
        yield
    finally:
        hosts.servers_back()


@asynccontextmanager
async def partition(hosts: Hosts, victim: int) -> AsyncIterator[None]:
    """Packets between the host and the edge, and the other hosts, are dropped."""
    hosts.cut(victim)
    try:
        yield
    finally:
        hosts.join(victim)


@asynccontextmanager
async def overload(hosts: Hosts, _: int) -> AsyncIterator[None]:
    """Further clients send three times what a Triton can answer."""
    spec = OpenLoop(rate=OVERLOAD * _CAPACITY, streams=0, connections=16, in_flight=2000)
    async with AsyncExitStack() as stack:
        crowd = load(
            spec,
            hosts.design.address,
            hosts.reference,
            Place(hosts.folder / "logs" / "crowd.log", hosts.enter("edge"), hosts.env),
            canaries=hosts.questions,
        )
        await stack.enter_async_context(crowd)
        yield


@asynccontextmanager
async def query_of_death(hosts: Hosts, _: int) -> AsyncIterator[None]:
    """A client repeats a request that kills the Triton which executes it."""
    sending = await asyncio.create_subprocess_exec(
        *hosts.enter("edge"),
        *hosts.python("-m", "benchmarks.peers.deadly", hosts.design.address),
        env=hosts.env,
        start_new_session=True,
    )
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(sending.pid, signal.SIGKILL)
        await sending.wait()


FAULTS = (
    Fault("crash", "crash", crash),
    Fault("freeze", "freeze (SIGSTOP)", freeze),
    Fault("hung_model", "hung model", hung_model),
    Fault("wrong_answers", "wrong answers", wrong_answers),
    Fault("stubs_killed", "all stubs killed", stubs_killed),
    Fault("switchover", "planned switchover", switchover, lasts=60.0),
    Fault("consul_gone_crash", "Consul gone, then crash", consul_gone_crash, late=True),
    Fault("partition", "host cut off", partition),
    Fault("overload", "3x overload", overload, lasts=60.0, parallel=False),
    Fault("query_of_death", "query of death", query_of_death, lasts=60.0),
)
