"""A service on a modelled Consul, whose sidecars take part in live drills with made-up faults."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, TypeVar

from sidecar.consul.api import ConsulApi, Lock, Set
from sidecar.election.keys import lock
from sidecar.election.keys.lock import Claim
from sidecar.events import DrillProgressed, DrillSeen, Event
from sidecar.injection import keys, other_instances
from sidecar.injection.loop import Injector, InjectorPorts
from sidecar.injection.rules import Fault, InjectionRules
from sidecar.operator.operator_client import OperatorClient
from sidecar.registry.checks import verdict_check
from sidecar.registry.registration import DRILL_META
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import Rejected
from tests.support.consul_model import FakeConsul
from tests.support.virtual_clock import VirtualClock

SERVICE = "t"
ALL = frozenset(Fault)


class MadeUp:
    """A fault that only counts what is done with it."""

    def __init__(self, member: "Member") -> None:
        self._member = member

    async def arm(self, seconds: float) -> None:
        await self._member.before("arm")
        self._member.armed.append(seconds)

    async def cause(self) -> None:
        if self._member.fails:
            raise Rejected("this user may not signal Triton's processes")
        self._member.on += 1
        self._member.caused += 1

    async def undo(self) -> None:
        self._member.on = 0


async def _nothing(step: str) -> None:
    """Let a step happen."""


class Member:
    """One instance with its sidecar; `before` is awaited before each step of a fault."""

    def __init__(self, scene: "DrillScene", name: str, allow: frozenset[Fault]) -> None:
        self.name = name
        self.on = self.caused = 0
        self.armed: list[float] = []
        self.before: Callable[[str], Awaitable[None]] = _nothing
        self.thawed = 0
        self.fails = False
        self.passing = True
        self.paused = ""
        self.events: list[Event] = []
        self.scene = scene
        self._allow = allow
        self._tasks: list[asyncio.Task[None]] = []
        self.start()

    def start(self) -> None:
        """Start the sidecar, which knows nothing of an earlier one."""
        consul, clock = self.scene.consul, self.scene.clock

        async def prepare(fault: Fault) -> MadeUp:
            await self.before("prepare")
            return MadeUp(self)

        async def thaw() -> None:
            self.thawed += 1
            self.on = 0

        async def announced() -> None:
            await self.before("announced")

        ports = InjectorPorts(
            passing=lambda: self.passing,
            paused=lambda: self.paused,
            others=lambda: other_instances.look(consul, SERVICE, self.name),
            prepare=prepare,
            thaw=thaw,
            announced=announced,
        )
        rules = InjectionRules(self._allow, 60.0)
        self.injector = Injector(
            rules, SERVICE, self.name, ports, consul, clock, self.events.append
        )
        self._tasks = [asyncio.create_task(loop()) for loop in self.injector.loops().values()]

    async def die(self) -> None:
        """End the sidecar as SIGKILL does: nothing is undone by it."""
        kept = self.on
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.on = kept

    @property
    def phases(self) -> list[tuple[str, str]]:
        """What it has told of drills."""
        told = [each for each in self.events if isinstance(each, DrillProgressed)]
        return [(each.phase, each.code) for each in told]

    @property
    def last(self) -> float:
        """When the last drill ended, as it was told."""
        return [each.ended for each in self.events if isinstance(each, DrillSeen)][-1]


class DrillScene:
    """Two instances, `a` is primary, and an operator."""

    def __init__(self, consul: ConsulApi, clock: Clock) -> None:
        self.clock = clock
        self.consul = consul
        self.members: dict[str, Member] = {}

    async def add(self, name: str, allow: frozenset[Fault] = ALL) -> Member:
        """Register an instance that passes, and start its sidecar."""
        check = {"CheckID": verdict_check(name), "Name": "Triton verdict", "TTL": "1h"}
        body: dict[str, Any] = {
            "ID": name,
            "Name": SERVICE,
            "Address": "10.0.0.1",
            "Port": 1,
            "Checks": [check],
        }
        body["Meta"] = {DRILL_META: ",".join(sorted(allow))} if allow else {}
        await self.consul.register_service(body)
        await self.set(name, "passing")
        self.members[name] = member = Member(self, name, allow)
        return member

    async def set(self, name: str, status: str) -> None:
        """Set an instance's verdict in Consul."""
        await self.consul.update_check(verdict_check(name), status, "")  # type: ignore[arg-type]

    async def elect(self, name: str) -> None:
        """Have an instance hold the role."""
        session = await self.consul.session_create("r", ttl=3600, lock_delay=0, service_checks=())
        claim = lock.dumps(Claim(name, session))
        await self.consul.transact(
            Lock(lock.lock_key(SERVICE), claim, session), Set(lock.epoch_key(SERVICE), claim)
        )

    def operator(self, name: str = "jane@desk", drill: str = "d1") -> OperatorClient:
        return OperatorClient(self.consul, SERVICE, "planes", "", name, self.clock, lambda: drill)

    async def keys(self) -> keys.DrillKeys:
        """What Consul has about drills."""
        found = (await self.consul.kv_prefix(keys.prefix(SERVICE))).value
        read = keys.read(SERVICE, found)
        return replace(read, order=read.order and replace(read.order, index=0))


class ModelledScene(DrillScene):
    """One on a modelled Consul, and a clock that is turned by hand."""

    clock: VirtualClock
    consul: FakeConsul


SceneT = TypeVar("SceneT", bound=DrillScene)


@asynccontextmanager
async def drill_scene(**allowed: frozenset[Fault]) -> AsyncIterator[ModelledScene]:
    """The scene with `a` and `b`, which permit everything unless said otherwise."""
    clock = VirtualClock()
    consul = FakeConsul(clock=clock)
    async with staged(ModelledScene(consul, clock), **allowed) as scene:
        await clock.advance(1.0)
        yield scene


@asynccontextmanager
async def staged(scene: SceneT, **allowed: frozenset[Fault]) -> AsyncIterator[SceneT]:
    """A scene with `a` and `b` on any Consul and clock."""
    for name in ("a", "b"):
        await scene.add(name, allowed.get(name, ALL))
    await scene.elect("a")
    try:
        yield scene
    finally:
        for member in scene.members.values():
            with suppress(asyncio.CancelledError):
                await member.die()


async def passing(scene: ModelledScene, work: asyncio.Task[None], seconds: float = 120.0) -> None:
    """Let time pass until work is done; its error is raised."""
    for _ in range(int(seconds * 4)):
        if work.done():
            break
        await scene.clock.advance(0.25)
    assert work.done(), f"not done after {seconds:g} s"
    work.result()
