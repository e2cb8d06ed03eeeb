"""Instances that take part in an election, on the model of Consul and a clock turned by hand."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from sidecar.consul.api import Check, Delete, KVEntry, Operation, QueryResult, Set, Status
from sidecar.election.keys import history, lock, orders
from sidecar.election.keys.orders import ElectionState, Kind, Order, Pause
from sidecar.election.lease import Role
from sidecar.election.participant import Participant, SidecarPorts
from sidecar.events import Event, FailbackDue, ModelSetCompared, Paused
from sidecar.health.assessment import Assessment
from sidecar.registry.registration import InstanceInfo, InstanceMeta, registration
from sidecar.runtime.errors import Conflict, Unavailable
from sidecar.runtime.latest import Latest
from sidecar.settings import SidecarSettings
from sidecar.settings.tables.health import HealthSettings
from sidecar.triton.api import ModelDescription
from sidecar.verdict.evidence import Finding, Layer, Reason
from sidecar.verdict.verdict import Verdict
from sidecar.verdict.verdict_line import State
from tests.support.consul_model import FakeConsul
from tests.support.fake_triton import FakeModel, FakeTriton
from tests.support.rewording import any_words as any_words
from tests.support.virtual_clock import VirtualClock, settle

PASSING = Verdict(State.PASSING, Reason.OK)
TTL = 15.0
PATIENCE = 60.0  # seconds of the real clock; machines are shared


class Stage:
    """What the participants share."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.consul = FakeConsul(clock=self.clock)
        self.actors: dict[str, Actor] = {}

    async def board(self) -> ElectionState:
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
        return (await self.board()).lock.instance


class Actor:
    """One instance: its participant, and what its sidecar would know."""

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
        """Be registered and well, as the sidecar's other loops would have it."""
        standing = InstanceMeta(
            priority=self.participant._rules.value.priority, model_set=self.model_set.value
        )
        await self.consul.register_service(registration(self.instance, standing))
        status: Status = "passing" if verdict.serving else "critical"
        await self.consul.update_check(self.instance.verdict_check, status, verdict.summary)
        await self.consul.update_check(self.instance.sidecar_check, "passing", "")
        for layer in (Layer.PORT, Layer.LIVE, Layer.READY):
            finding = Finding(layer, "", Reason.OK)
            self.assessment.observe(*[finding] * 3)
        self.published.set(verdict)
        await settle()

    def told(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


@asynccontextmanager
async def stage(**actors: dict[str, object]) -> AsyncIterator[Stage]:
    """Participants that pass, the first of them first."""
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


async def test_a_candidate_proves_itself_before_the_primary_lets_go() -> None:
    async with stage(a={}, b={}) as it:
        a, b = it.actors.values()
        assert await it.primary() == "a"
        await it.order(to="b", reason="new kernel")
        await it.clock.advance(1)
        assert (await it.primary(), b.asked) == ("b", 1)
        assert (a.role, b.role) == (Role.STANDBY, Role.PRIMARY)
        board = await it.board()
        assert board.order is None
        assert board.outcome
        assert board.outcome.done
        assert (await it.history())[-1][:2] == ("a", "b")


async def test_a_candidate_that_finds_itself_unfit_changes_nothing() -> None:
    async with stage(a={}, b={}) as it:
        a, b = it.actors.values()
        b.wrong = "m: CANARY_WRONG_ANSWER"
        epoch = a.participant.election.epoch
        await it.order(to="b")
        await it.clock.advance(1)
        assert (a.role, a.participant.election.epoch) == (Role.PRIMARY, epoch)
        outcome = (await it.board()).outcome
        assert outcome
        assert (outcome.done, bool(outcome.why)) == (False, True)


@pytest.mark.parametrize(("settles", "primary"), [(3, "b"), (600, "a")])
async def test_a_candidate_that_has_just_come_back_settles_first(
    settles: int, primary: str
) -> None:
    async with stage(a={}, b={"settle": f"{settles}s"}) as it:
        _, b = it.actors.values()
        await b.passes(Verdict(State.CRITICAL, Reason.GPU_LOST))
        await b.passes()
        await it.order(to="b")
        await it.clock.advance(1)
        assert (await it.primary(), b.asked) == ("a", 0)
        await it.clock.advance(3)
        assert await it.primary() == primary
        outcome = (await it.board()).outcome
        assert outcome
        assert outcome.done == (primary == "b")


async def test_others_are_told_when_it_will_have_settled() -> None:
    async with stage(a={}, b={"settle": "8s"}) as it:
        _, b = it.actors.values()
        told = [b.participant.settled_at]
        await it.clock.advance(8)
        told.append(b.participant.settled_at)
        await b.passes(Verdict(State.CRITICAL, Reason.GPU_LOST))
        told.append(b.participant.settled_at)
        nudged, until = b.nudged, it.clock.wall() + 8
        await b.passes()
        assert b.nudged > nudged
        told.append(b.participant.settled_at)
        await it.clock.advance(7.5)
        told.append(b.participant.settled_at)  # as before, or it would be written again and again
        await it.clock.advance(0.5)
        told.append(b.participant.settled_at)
        assert told == [until - 13, None, None, until, until, None]


async def test_it_asks_for_the_role_back_no_sooner_than_it_may_take_it() -> None:
    back = {"priority": 200, "failback": "auto", "failback_settle": "10s", "settle": "40s"}
    async with stage(a={}, b=back) as it:
        a, b = it.actors.values()
        await it.clock.advance(30)
        assert (a.role, (await it.board()).outcome) == (Role.PRIMARY, None)
        await it.clock.advance(15)
        assert b.role is Role.PRIMARY


async def test_an_order_is_taken_back_while_its_candidate_settles() -> None:
    async with stage(a={}, b={"settle": "8s"}) as it:
        _, b = it.actors.values()
        await b.passes(Verdict(State.CRITICAL, Reason.GPU_LOST))
        await b.passes()
        await it.order(to="b")
        await it.clock.advance(2)
        await it.consul.transact(Delete(orders.order_key("t"), (await it.board()).order_index))
        await it.clock.advance(10)
        assert (await it.primary(), b.asked) == ("a", 0)
        # And the next one is seen at once.
        await it.order(to="b")
        await it.clock.advance(0.5)
        assert await it.primary() == "b"


async def test_the_candidate_of_a_failover_does_not_settle_first() -> None:
    async with stage(a={}, b={"settle": "600s"}) as it:
        _, b = it.actors.values()
        await b.passes(Verdict(State.CRITICAL, Reason.GPU_LOST))
        await b.passes()
        await it.order(Kind.FAILOVER, to="b")
        await it.clock.advance(0.5)
        assert (await it.primary(), b.asked) == ("b", 1)


async def test_another_model_set_is_no_candidate() -> None:
    async with stage(a={}, b={"mismatch": "serve"}) as it:
        _, b = it.actors.values()
        b.model_set.set("triton-00000000000000bb")
        await it.order(to="b")
        await it.clock.advance(1)
        assert await it.primary() == "a"
        outcome = (await it.board()).outcome
        assert outcome
        assert not outcome.done


async def test_an_order_for_later_waits_for_its_time() -> None:
    async with stage(a={}, b={}) as it:
        await it.order(to="b", at=it.clock.wall() + 600)
        await it.clock.advance(599)
        assert await it.primary() == "a"
        await it.clock.advance(3)
        assert await it.primary() == "b"


async def test_a_primary_that_is_told_to_stop_hands_over_first() -> None:
    async with stage(a={}, b={}) as it:
        a, b = it.actors.values()
        await asyncio.wait_for(a.participant.hand_over(), PATIENCE)
        await settle()
        assert (a.role, b.role) == (Role.STANDBY, Role.PRIMARY)
        assert (await it.history())[-1][:2] == ("a", "b")


LOST, UNHEARD = "never reaches Consul", "is done, and nobody hears of it"


@pytest.mark.parametrize("trouble", [[LOST], [LOST] * 3, [UNHEARD], [LOST, UNHEARD]])
@pytest.mark.parametrize("looks_fail", [0, 2])
async def test_a_hiccup_of_consul_does_not_keep_a_primary_from_handing_over(
    trouble: list[str], looks_fail: int
) -> None:
    async with stage(a={}, b={}) as it:
        a, b = it.actors.values()
        given = flaky_orders(it, list(trouble), looks_fail)
        stop = asyncio.create_task(a.participant.hand_over())
        await it.clock.advance(6)
        assert stop.done()
        stop.result()
        assert (a.role, b.role) == (Role.STANDBY, Role.PRIMARY)
        assert len(set(given)) == 1  # the same order, however often
        assert [(by, to) for by, to, _ in await it.history()] == [("", "a"), ("a", "b")]


def flaky_orders(it: Stage, trouble: list[str], looks_fail: int) -> list[str]:
    """What becomes of the next orders, and of the looks after them; gives the ids of orders."""
    transact, kv_prefix, given = it.consul.transact, it.consul.kv_prefix, list[str]()

    async def flaky(*operations: Operation) -> Mapping[str, int]:
        first = operations[0]
        if not isinstance(first, Set) or first.key != orders.order_key("t"):
            return await transact(*operations)
        given.append(json.loads(first.value)["id"])
        what = trouble.pop(0) if trouble else None
        if what == LOST:
            raise Unavailable("Consul: no answer")
        done = await transact(*operations)
        if what == UNHEARD:
            raise Unavailable("Consul: no answer")
        return done

    async def look(prefix: str, **how: Any) -> QueryResult[tuple[KVEntry, ...]]:
        nonlocal looks_fail
        if "index" not in how and prefix == lock.prefix("t") and looks_fail:
            looks_fail -= 1
            raise Unavailable("Consul: no answer")
        return await kv_prefix(prefix, **how)

    it.consul.transact = flaky  # type: ignore[method-assign]
    it.consul.kv_prefix = look  # type: ignore[method-assign]
    return given


async def test_what_is_over_by_now_is_not_in_the_way_of_handing_over() -> None:
    async with stage(a={}, b={}) as it:
        a, b = it.actors.values()
        await it.order(at=it.clock.wall() - 600, to="nobody")
        await asyncio.wait_for(a.participant.hand_over(), PATIENCE)
        await settle()
        assert (a.role, b.role) == (Role.STANDBY, Role.PRIMARY)


async def test_an_order_that_comes_first_is_left_alone() -> None:
    async with stage(a={}, b={}) as it:
        a, _ = it.actors.values()
        flaky_orders(it, [LOST], 0)
        stop = asyncio.create_task(a.participant.hand_over())
        await settle()
        await FakeConsul.transact(
            it.consul,
            Set(
                orders.order_key("t"),
                lock.dumps(Order("1", Kind.SWITCHOVER, it.clock.wall() + 600, "anna@desk", "b")),
            ),
        )
        await it.clock.advance(2)
        with pytest.raises(Conflict, match="switchover by anna@desk"):
            stop.result()
        found = (await it.board()).order
        assert found
        assert found.id == "1"


async def test_a_primary_alone_keeps_the_role_until_it_leaves() -> None:
    async with stage(a={}) as it:
        (a,) = it.actors.values()
        await asyncio.wait_for(a.participant.hand_over(), PATIENCE)
        assert a.role is Role.PRIMARY
        await asyncio.wait_for(a.participant.leave(), PATIENCE)
        assert await it.primary() is None


async def pause(it: Stage, until: float | None = None) -> None:
    made = Pause(it.clock.wall(), "anna@desk", "new switches", until)
    await it.consul.transact(Set(orders.pause_key("t"), lock.dumps(made)))
    await settle()


async def test_while_paused_nobody_takes_the_role() -> None:
    async with stage(a={}, b={}) as it:
        a, b = it.actors.values()
        await pause(it, it.clock.wall() + 100)
        assert a.participant.paused.value
        assert list(a.told(Paused)) == [Paused(a.participant.paused.value)]
        await a.passes(Verdict(State.CRITICAL, Reason.GPU_LOST))
        await it.clock.advance(60)
        assert (await it.primary(), b.role) == (None, Role.STANDBY)
        await it.clock.advance(60)  # the pause is over
        assert (await it.primary(), b.role) == ("b", Role.PRIMARY)
        assert b.participant.paused.value == ""


async def test_while_paused_the_last_holder_takes_its_own_role_again() -> None:
    async with stage(a={}, b={}) as it:
        a, b = it.actors.values()
        await pause(it)
        await a.passes(Verdict(State.CRITICAL, Reason.GPU_LOST))
        await it.clock.advance(30)
        await a.passes()
        await it.clock.advance(10)
        assert (await it.primary(), b.role) == ("a", Role.STANDBY)


async def test_failing_back_by_itself() -> None:
    async with stage(a={}, b={"priority": 200, "failback": "auto"}) as it:
        a, b = it.actors.values()
        assert a.role is Role.PRIMARY
        await it.clock.advance(50)
        assert a.role is Role.PRIMARY  # b has to pass for failback_settle first
        await it.clock.advance(30)
        assert (a.role, b.role) == (Role.STANDBY, Role.PRIMARY)
        assert (await it.history())[-1][:2] == ("a", "b")


@pytest.mark.parametrize(("failback", "told"), [("manual", True), ("never", False)])
async def test_failing_back_only_if_asked(failback: str, told: bool) -> None:
    async with stage(a={}, b={"priority": 200, "failback": failback}) as it:
        a, b = it.actors.values()
        await it.clock.advance(200)
        assert a.role is Role.PRIMARY
        assert (FailbackDue(True) in b.told(FailbackDue)) == told


async def test_the_history_is_told_what_a_change_cost() -> None:
    async with stage(a={}, b={}) as it:
        a, b = it.actors.values()
        b.counted = (1200, 3)
        await a.passes(Verdict(State.CRITICAL, Reason.GPU_LOST))
        await it.clock.advance(10)
        found = (await it.consul.kv_prefix(history.prefix("t"))).value
        last = history.read("t", found)[-1]
        assert (last.by, last.to, last.requests, last.failed) == ("a", "b", 1200, 3)
        assert last.without is not None
        assert last.cause


async def test_a_hiccup_of_consul_costs_the_history_nothing() -> None:
    async with stage(a={}, b={}) as it:
        a, b = it.actors.values()
        b.counted = (1200, 3)
        read, failed = it.consul.kv_prefix, list[str]()

        async def flaky(prefix: str, **how: Any) -> QueryResult[tuple[KVEntry, ...]]:
            if prefix == history.prefix("t") and len(failed) < 2:
                failed.append(prefix)
                raise Unavailable("Consul: no answer")
            return await read(prefix, **how)

        it.consul.kv_prefix = flaky  # type: ignore[method-assign]
        await a.passes(Verdict(State.CRITICAL, Reason.GPU_LOST))
        await it.clock.advance(20)
        assert len(failed) == 2
        last = history.read("t", (await read(history.prefix("t"))).value)[-1]
        assert (last.to, last.requests, last.failed) == ("b", 1200, 3)


async def test_in_strict_mode_only_a_confirmed_primary_serves() -> None:
    async with stage(a={"mode": "strict"}, b={"mode": "strict"}) as it:
        a, b = it.actors.values()
        assert (a.participant.may_serve(), b.participant.may_serve()) == (True, False)

        async def lost(*_: object, **__: object) -> None:
            await asyncio.Event().wait()

        it.consul.session_renew = lost  # type: ignore[method-assign]
        await it.clock.advance(TTL - 7)
        assert a.participant.may_serve()
        await it.clock.advance(6.5)
        assert not a.participant.may_serve()  # a second before anybody else could begin to
        assert not a.participant.shown.value.serving
        assert a.role in (Role.PRIMARY, Role.UNCONFIRMED)


async def test_otherwise_losing_consul_stops_nothing() -> None:
    async with stage(a={}) as it:
        (a,) = it.actors.values()

        async def lost(*_: object, **__: object) -> None:
            await asyncio.Event().wait()

        it.consul.session_renew = lost  # type: ignore[method-assign]
        await it.clock.advance(TTL * 3)
        assert a.role is not Role.PRIMARY
        assert a.participant.may_serve()
        assert a.participant.shown is a.assessment.verdict


@pytest.mark.parametrize(
    ("loaded", "found"), [(True, State.PASSING), (False, State.COLD)], ids=["loaded", "cold"]
)
async def test_a_standby_is_cold_only_once_its_triton_has_said_so(
    loaded: bool, found: State
) -> None:
    """Beside a Triton that serves a sidecar is started, and knows nothing yet."""
    made = Stage()
    actor = Actor(made, "a", standby="cold")
    model = actor.triton.models["m"]
    model.loaded = model.ready = loaded
    actor.triton.index_error = Unavailable("Triton: no answer")
    loops = [asyncio.create_task(loop()) for loop in actor.participant.loops().values()]
    await made.clock.advance(5)
    assert actor.participant.shown.value.unproven
    assert actor.participant.cold  # so that nobody takes it for loaded either
    actor.triton.index_error = None
    await made.clock.advance(2)
    await actor.passes()
    assert actor.participant.shown.value.state is found
    assert actor.participant.cold is not loaded
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)


async def test_beside_models_in_use_it_unloads_none_before_another_one_leads() -> None:
    """A sidecar is started again, and has the role only later."""
    cold = {"standby": "cold", "unload": True}
    async with stage(a=cold) as it:
        [a] = it.actors.values()
        assert (a.role, a.triton.orders) == (Role.PRIMARY, [])
    async with stage(b={}, a=cold) as it:
        b, a = it.actors.values()
        assert (b.role, a.triton.orders) == (Role.PRIMARY, ["unload m"])


async def test_whose_models_are_others_is_told_and_refused() -> None:
    async with stage(a={}, b={}) as it:
        _, b = it.actors.values()
        b.model_set.set("triton-00000000000000bb")
        await settle()
        assert b.participant.differs
        assert isinstance(b.told(ModelSetCompared)[-1], ModelSetCompared)
        reasons = {finding.reason for finding in b.assessment.evidence}
        assert Reason.MODEL_SET_DIFFERS in reasons
        b.model_set.set("triton-00000000000000aa")
        await settle()
        assert b.participant.differs == ""
        assert Reason.MODEL_SET_DIFFERS not in {f.reason for f in b.assessment.evidence}


def refuses(actor: Actor) -> bool:
    """Whether it takes no requests for its model set."""
    return Reason.MODEL_SET_DIFFERS in {finding.reason for finding in actor.assessment.evidence}


async def test_a_primary_that_loads_another_model_set_takes_nobody_out() -> None:
    async with stage(a={}, b={}, c={}) as it:
        a, b, c = it.actors.values()
        a.model_set.set("triton-00000000000000bb")
        await a.passes()
        a.participant.reconsider()
        await it.clock.advance(5)
        last = (await it.board()).lock.last
        assert last
        assert last.model_set == "triton-00000000000000bb"
        assert [bool(each.participant.differs) for each in (a, b, c)] == [False, True, True]
        assert not any(map(refuses, (a, b, c)))
        await a.passes(Verdict(State.CRITICAL, Reason.GPU_LOST))
        await it.clock.advance(5)
        assert await it.primary() in ("b", "c")
        assert [each for each in (b, c) if refuses(each)] == []


async def test_who_comes_with_another_model_set_is_refused_also_later() -> None:
    async with stage(a={}, b={}, c={}) as it:
        a, b, c = it.actors.values()
        c.model_set.set("triton-00000000000000bb")
        await c.passes()
        assert (refuses(b), refuses(c)) == (False, True)
        await a.passes(Verdict(State.CRITICAL, Reason.GPU_LOST))
        await it.clock.advance(5)
        assert await it.primary() == "b"
        assert refuses(c)


async def test_an_order_in_the_way_is_left_alone() -> None:
    async with stage(a={}, b={}) as it:
        a, _ = it.actors.values()
        await it.order(to="b", at=it.clock.wall() + 600)
        await settle()
        with pytest.raises(Conflict, match="switchover by anna@desk"):
            await asyncio.wait_for(a.participant.hand_over(), PATIENCE)
        assert a.role is Role.PRIMARY
        found = (await it.board()).order
        assert found
        assert found.to == "b"


async def test_who_is_taken_out_of_service_hands_over_first() -> None:
    async with stage(a={}, b={}) as it:
        a, b = it.actors.values()
        a.maintained.set("new kernel")
        await settle()
        assert a.participant.shown.value.serving  # as long as nobody else has the role
        await it.clock.advance(0.5)
        assert (await it.primary(), b.asked) == ("b", 1)
        assert a.participant.shown.value.serving  # Envoys may not have seen it yet
        await it.clock.advance(2)
        assert a.participant.shown.value.state is State.MAINTENANCE
        assert (await it.history())[-1][:2] == ("a", "b")
        a.maintained.set(None)
        await it.clock.advance(1)
        assert a.participant.shown.value.serving
        assert await it.primary() == "b"


async def test_it_serves_until_its_successor_does() -> None:
    """A cold standby takes the role, and has to load its models first."""
    async with stage(a={}, b={}) as it:
        a, _ = it.actors.values()
        loading = Check("loading", "loading", "critical", "its models", "b")
        entry = it.consul.model.services["b"]
        it.consul.model.services["b"] = replace(entry, checks=(*entry.checks, loading))
        await it.order(to="b", force=True)
        a.maintained.set("new kernel")
        await it.clock.advance(30)
        assert await it.primary() == "b"
        assert a.participant.shown.value.serving
        assert a.role is Role.STANDBY
        it.consul.model.services["b"] = entry
        await it.clock.advance(3)
        assert a.participant.shown.value.state is State.MAINTENANCE


@pytest.mark.parametrize(
    ("mode", "state"), [("preferred", State.MAINTENANCE), ("strict", State.PASSING)]
)
async def test_whoever_else_serves_relieves_it_but_in_strict_mode_only_the_primary(
    mode: str, state: State
) -> None:
    async with stage(a={"mode": mode}, b={"mode": mode}, c={"mode": mode}) as it:
        *_, c = it.actors.values()
        full = Check("disk", "disk", "critical", "is full", "a")
        entry = it.consul.model.services["a"]
        it.consul.model.services["a"] = replace(entry, checks=(*entry.checks, full))
        c.maintained.set("new kernel")
        await it.clock.advance(3)
        assert await it.primary() == "a"
        assert c.assessment.verdict.value.state is state


async def test_without_a_successor_it_leaves_at_once() -> None:
    async with stage(a={}, b={}) as it:
        a, b = it.actors.values()
        for actor in (a, b):
            actor.maintained.set("new kernel")
        await it.consul.maintain_node("new kernel")
        await it.clock.advance(1)
        assert await it.primary() is None
        assert [actor.participant.shown.value.state for actor in (a, b)] == [State.MAINTENANCE] * 2


async def test_while_paused_it_hands_over_to_nobody() -> None:
    async with stage(a={}, b={}) as it:
        a, _ = it.actors.values()
        pause = Pause(it.clock.wall(), "anna@desk")
        await it.consul.transact(Set(orders.pause_key("t"), lock.dumps(pause)))
        await it.clock.advance(1)
        a.maintained.set("new kernel")
        await settle()
        assert a.participant.shown.value.state is State.MAINTENANCE


async def test_what_is_taken_back_while_it_hands_over_ends_nothing() -> None:
    async with stage(a={}, b={"settle": "3s"}) as it:
        a, b = it.actors.values()
        await b.passes(Verdict(State.CRITICAL, Reason.GPU_LOST))
        await it.clock.advance(1)
        await b.passes()
        a.maintained.set("new kernel")
        await it.clock.advance(1)
        assert await it.primary() == "a"  # the other one settles first
        a.maintained.set(None)
        await it.clock.advance(1)
        assert a.participant.shown.value.serving


async def test_who_falls_while_it_hands_over_is_in_maintenance_at_once() -> None:
    """Its Triton was stopped for what the maintenance is for; recovery leaves that alone."""
    async with stage(a={}, b={"settle": "3s"}) as it:
        a, b = it.actors.values()
        await b.passes(Verdict(State.CRITICAL, Reason.GPU_LOST))
        await it.clock.advance(1)
        await b.passes()
        a.maintained.set("new kernel")
        await settle()
        assert a.participant.shown.value.serving
        a.assessment.observe(*[Finding(Layer.PORT, "", Reason.PORT_UNREACHABLE)] * 3)
        await settle()
        assert a.participant.shown.value.state is State.MAINTENANCE


async def test_who_stops_while_it_hands_over_waits_for_that() -> None:
    async with stage(a={}, b={"settle": "3s"}) as it:
        a, b = it.actors.values()
        await b.passes(Verdict(State.CRITICAL, Reason.GPU_LOST))
        await it.clock.advance(1)
        await b.passes()
        a.maintained.set("new kernel")
        await it.clock.advance(1)
        stopping = asyncio.ensure_future(a.participant.hand_over())
        await settle()
        assert not stopping.done()
        await it.clock.advance(6)
        await stopping
        assert await it.primary() == "b"
