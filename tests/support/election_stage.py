"""Participants of an election on the model of Consul and a virtual clock."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sidecar.consul.api import Set, Status
from sidecar.election.keys import history, lock, orders
from sidecar.election.keys.orders import ElectionState, Kind, Order
from sidecar.election.lease import Role
from sidecar.election.participant import Participant, SidecarPorts
from sidecar.events import Event
from sidecar.health.assessment import Assessment
from sidecar.registry.registration import InstanceInfo, InstanceMeta, registration
from sidecar.runtime.latest import Latest
from sidecar.settings import SidecarSettings
from sidecar.settings.tables.health import HealthSettings
from sidecar.triton.api import ModelDescription
from sidecar.verdict.evidence import Finding, Layer, Reason
from sidecar.verdict.verdict import Verdict
from sidecar.verdict.verdict_line import State
from tests.support.consul_model import FakeConsul
from tests.support.fake_triton import FakeModel, FakeTriton
from tests.support.virtual_clock import VirtualClock, settle

PASSING = Verdict(State.PASSING, Reason.OK)
TTL = 15.0
PATIENCE = 60.0  # seconds of the real clock; machines are shared


class Stage:
    """The Consul and the clock that the participants share."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.consul = FakeConsul(clock=self.clock)
        self.actors: dict[str, Actor] = {}

    async def state(self) -> ElectionState:
        answer = await self.consul.kv_prefix(lock.prefix("t"))
        return orders.read("t", answer.value, answer.index)

    async def history(self) -> list[tuple[str, str, str]]:
        found = (await self.consul.kv_prefix(history.prefix("t"))).value
        return [(entry.by, entry.to, entry.cause) for entry in history.read("t", found)]

    async def order(self, kind: Kind = Kind.SWITCHOVER, **more: object) -> Order:
        at = more.pop("at", self.clock.wall())
        made = Order("1", kind, at, "anna@desk", **more)  # type: ignore[arg-type]
        await self.consul.transact(Set(orders.order_key("t"), lock.dumps(made)))
        return made

    async def primary(self) -> str | None:
        return (await self.state()).lock.instance


class Actor:
    """One instance: its participant, and the state that its sidecar's other loops would have."""

    def __init__(self, stage: Stage, name: str, **election: object) -> None:
        self.clock, self.consul, self.name = stage.clock, stage.consul, name
        self.events: list[Event] = []
        self.instance = InstanceInfo(name, "t", "127.0.0.1", 1, 1, (), (), ("m",), "h:2", "live")
        self.published: Latest[Verdict | None] = Latest(None)
        self.maintained: Latest[str | None] = Latest(None)
        self.model_set = Latest("triton-00000000000000aa")
        self.wrong = ""
        self.asked = self.nudged = 0
        self.counted: tuple[int, int] | None = (40, 0)
        settings = SidecarSettings.model_validate(
            {"triton": {"models": ["m"]}, "election": {"settle": "0s", **election}}
        )
        self.triton = FakeTriton(self.clock, FakeModel(ModelDescription("m", ("1",))))
        self.assessment = Assessment(
            (), Latest(HealthSettings().rules), self.clock, self.events.append
        )
        around = SidecarPorts(
            triton=self.triton,
            models=settings.triton.models,
            published=self.published,
            maintained=self.maintained,
            model_set=self.model_set,
            headroom=lambda: "",
            ask=self._ask,
            idle=settle,
            count=self._count,
            unloaded=lambda: None,
            nudge=self._nudge,
        )
        self.participant = Participant(
            settings.election.rules,
            self.instance,
            self.consul,
            self.assessment,
            around,
            self.clock,
            self.events.append,
        )

    async def _ask(self) -> str:
        self.asked += 1
        return self.wrong

    async def _count(self, seconds: float) -> tuple[int, int] | None:
        return self.counted

    def _nudge(self) -> None:
        self.nudged += 1

    @property
    def role(self) -> Role:
        return self.participant.role

    async def passes(self, verdict: Verdict = PASSING) -> None:
        """Register with a passing verdict, as the sidecar's other loops would."""
        meta = InstanceMeta(
            priority=self.participant._rules.value.priority, model_set=self.model_set.value
        )
        await self.consul.register_service(registration(self.instance, meta))
        status: Status = "passing" if verdict.serving else "critical"
        await self.consul.update_check(self.instance.verdict_check, status, verdict.summary)
        await self.consul.update_check(self.instance.sidecar_check, "passing", "")
        for layer in (Layer.PORT, Layer.LIVE, Layer.READY):
            finding = Finding(layer, "", Reason.OK)
            self.assessment.observe(*[finding] * 3)
        self.published.set(verdict)
        await settle()

    def events_of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


@asynccontextmanager
async def stage(**actors: dict[str, object]) -> AsyncIterator[Stage]:
    """Participants that pass; the first of them is primary."""
    made = Stage()
    made.actors = {name: Actor(made, name, **election) for name, election in actors.items()}
    loops = [
        asyncio.create_task(loop())
        for actor in made.actors.values()
        for loop in actor.participant.loops().values()
    ]
    await settle()
    try:
        for actor in made.actors.values():
            await actor.passes()
            await made.clock.advance(5)
        yield made
        for loop in loops:
            if loop.done():
                loop.result()
    finally:
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
