"""Many candidates without a Triton, in one process, on a real Consul, and their requests to it.

To Consul each is like a sidecar: it registers, pushes a verdict, keeps its entry up to date and
takes part in elections. Only the probes are missing.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import grpc.aio

from sidecar.consul.access import ConsulAccess
from sidecar.consul.client import Consul
from sidecar.election.lease import Role
from sidecar.election.participant import Participant, SidecarPorts
from sidecar.events import Event
from sidecar.health import server as health_server
from sidecar.health.assessment import Assessment
from sidecar.registry.publisher import Publisher
from sidecar.registry.registration import InstanceInfo, InstanceMeta
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.errors import Unavailable
from sidecar.runtime.latest import Latest
from sidecar.settings.tables.election import ElectionSettings
from sidecar.settings.tables.health import HealthSettings
from sidecar.triton.client import Triton
from sidecar.verdict.evidence import Reason
from sidecar.verdict.verdict import Verdict
from sidecar.verdict.verdict_line import State

T = TypeVar("T")
WELL = Verdict(State.PASSING, Reason.OK)
ILL = Verdict(State.CRITICAL, Reason.GPU_LOST, "told so by the benchmark")
SERVICE = "candidates"
_PATIENCE = 120.0


class Counted(Consul):
    """A Consul client that counts its requests."""

    def __init__(self, settings: ConsulAccess, counts: Counter[str]) -> None:
        super().__init__(settings)
        self._counts = counts

    async def _ask(
        self,
        operation: str,
        request: Callable[[], Awaitable[T]],
        extra: float = 0.0,
        *,
        absent: bool = False,
    ) -> T:
        self._counts[operation] += 1
        return await super()._ask(operation, request, extra, absent=absent)


@dataclass
class Candidates:
    """All candidates; `counts` has their requests to Consul so far, by operation."""

    counts: Counter[str] = field(default_factory=Counter)
    verdicts: dict[str, Latest[Verdict]] = field(default_factory=dict)
    standing: dict[str, Participant] = field(default_factory=dict)

    @property
    def primary(self) -> str | None:
        """The candidate that knows that it holds the lock."""
        held = [name for name, each in self.standing.items() if each.role is Role.PRIMARY]
        return held[0] if held else None

    async def until_primary(self, but: str | None = None) -> str:
        """Wait for a primary other than `but`."""
        deadline = time.monotonic() + _PATIENCE
        while (found := self.primary) is None or found == but:
            if time.monotonic() > deadline:
                raise Unavailable(f"no new primary within {_PATIENCE:g} s")
            await asyncio.sleep(0.001)
        return found


@asynccontextmanager
async def candidates(address: str, count: int) -> AsyncIterator[Candidates]:
    """Run `count` candidates on the agent at an address during the context."""
    made = Candidates()
    health = grpc.aio.server()
    health_server.add_to(health, Latest(WELL), frozenset())
    port = health.add_insecure_port("127.0.0.1:0")
    await health.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(health.stop, 0)
        loops = []
        for number in range(count):
            name = f"candidate-{number:03}"
            consul = Counted(ConsulAccess(address=address), made.counts)
            await stack.enter_async_context(consul)
            triton = await stack.enter_async_context(Triton("127.0.0.1:9", 1))
            loops += _loops(made, name, port, consul, triton)
        try:
            yield made
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            async with Consul(ConsulAccess(address=address)) as door:
                for name in made.standing:
                    await door.deregister_service(name)


def _loops(
    made: Candidates, name: str, port: int, consul: Consul, triton: Triton
) -> list["asyncio.Task[None]"]:
    clock, verdict = SystemClock(), Latest(WELL)
    sidecar, live = f"127.0.0.1:{port}", health_server.LIVENESS
    instance = InstanceInfo(name, SERVICE, "127.0.0.1", 9, 1, (), (), ("m",), sidecar, live)

    def wished() -> tuple[InstanceInfo, InstanceMeta]:
        role = made.standing[name].role
        return instance, InstanceMeta(role=role.value, epoch=made.standing[name].election.epoch)

    publisher = Publisher(consul, verdict, wished, lambda said: said.summary, clock, _ignore)
    made.verdicts[name] = verdict
    made.standing[name] = participant = Participant(
        ElectionSettings.model_validate({"settle": "1s"}).rules,
        instance,
        consul,
        Assessment((), Latest(HealthSettings().rules), clock, _ignore),
        SidecarPorts(
            triton=triton,
            models=("m",),
            published=publisher.published,
            maintained=publisher.maintained,
            model_set=Latest("triton-0000000000000000"),
            headroom=lambda: "",
            ask=_nothing,
            idle=_at_once,
            count=_uncounted,
            unloaded=lambda: None,
            nudge=publisher.nudge,
        ),
        clock,
        _ignore,
    )
    loops = [publisher.push, publisher.keep, *participant.loops().values()]
    return [asyncio.create_task(loop()) for loop in loops]


def _ignore(event: Event) -> None:
    """Drop events: the benchmark reads Consul."""


async def _nothing() -> str:
    return ""


async def _at_once() -> None:
    """A drain without requests in flight."""


async def _uncounted(seconds: float) -> tuple[int, int] | None:
    return None
