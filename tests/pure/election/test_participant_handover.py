"""A primary that stops, or is taken out of service, hands over first."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from sidecar.consul.api import Check, KVEntry, Operation, QueryResult, Set
from sidecar.election.keys import lock, orders
from sidecar.election.keys.orders import Kind, Order, Pause
from sidecar.election.lease import Role
from sidecar.runtime.errors import Conflict, Unavailable
from sidecar.verdict.evidence import Finding, Layer, Reason
from sidecar.verdict.verdict import Verdict
from sidecar.verdict.verdict_line import State
from tests.support.consul_model import FakeConsul
from tests.support.election_stage import PATIENCE, Stage, stage
from tests.support.rewording import any_words as any_words
from tests.support.virtual_clock import settle


async def test_a_primary_that_is_asked_to_stop_hands_over_first() -> None:
    async with stage(a={}, b={}) as it:
        a, b = it.actors.values()
        await asyncio.wait_for(a.participant.hand_over(), PATIENCE)
        await settle()
        assert (a.role, b.role) == (Role.STANDBY, Role.PRIMARY)
        assert (await it.history())[-1][:2] == ("a", "b")


LOST, UNHEARD = "never reaches Consul", "is done, and nobody hears of it"


@pytest.mark.parametrize("outcomes", [[LOST], [LOST] * 3, [UNHEARD], [LOST, UNHEARD]])
@pytest.mark.parametrize("looks_fail", [0, 2])
async def test_a_brief_outage_of_consul_does_not_prevent_a_handover(
    outcomes: list[str], looks_fail: int
) -> None:
    async with stage(a={}, b={}) as it:
        a, b = it.actors.values()
        given = flaky_orders(it, list(outcomes), looks_fail)
        stop = asyncio.create_task(a.participant.hand_over())
        await it.clock.advance(6)
        assert stop.done()
        stop.result()
        assert (a.role, b.role) == (Role.STANDBY, Role.PRIMARY)
        assert len(set(given)) == 1  # the same order, however often
        assert [(by, to) for by, to, _ in await it.history()] == [("", "a"), ("a", "b")]


def flaky_orders(it: Stage, outcomes: list[str], looks_fail: int) -> list[str]:
    """`outcomes` are those of the next orders and reads; returns the ids of the orders."""
    transact, kv_prefix, given = it.consul.transact, it.consul.kv_prefix, list[str]()

    async def flaky(*operations: Operation) -> Mapping[str, int]:
        first = operations[0]
        if not isinstance(first, Set) or first.key != orders.order_key("t"):
            return await transact(*operations)
        given.append(json.loads(first.value)["id"])
        what = outcomes.pop(0) if outcomes else None
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


async def test_an_expired_order_does_not_prevent_a_handover() -> None:
    async with stage(a={}, b={}) as it:
        a, b = it.actors.values()
        await it.order(at=it.clock.wall() - 600, to="nobody")
        await asyncio.wait_for(a.participant.hand_over(), PATIENCE)
        await settle()
        assert (a.role, b.role) == (Role.STANDBY, Role.PRIMARY)


async def test_an_order_that_was_written_first_is_kept() -> None:
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
        found = (await it.state()).order
        assert found
        assert found.id == "1"


async def test_a_primary_alone_keeps_the_role_until_it_leaves() -> None:
    async with stage(a={}) as it:
        (a,) = it.actors.values()
        await asyncio.wait_for(a.participant.hand_over(), PATIENCE)
        assert a.role is Role.PRIMARY
        await asyncio.wait_for(a.participant.leave(), PATIENCE)
        assert await it.primary() is None


async def test_a_primary_that_is_taken_out_of_service_hands_over_first() -> None:
    async with stage(a={}, b={}) as it:
        a, b = it.actors.values()
        a.maintained.set("new kernel")
        await settle()
        assert a.participant.shown.value.serving  # as long as no other instance has the role
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
async def test_any_other_serving_instance_relieves_it_but_in_strict_mode_only_the_primary(
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


async def test_while_paused_it_does_not_hand_over() -> None:
    async with stage(a={}, b={}) as it:
        a, _ = it.actors.values()
        pause = Pause(it.clock.wall(), "anna@desk")
        await it.consul.transact(Set(orders.pause_key("t"), lock.dumps(pause)))
        await it.clock.advance(1)
        a.maintained.set("new kernel")
        await settle()
        assert a.participant.shown.value.state is State.MAINTENANCE


async def test_a_primary_keeps_serving_if_maintenance_is_cancelled_during_the_handover() -> None:
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


async def test_a_primary_that_fails_during_the_handover_is_in_maintenance_at_once() -> None:
    """Its Triton was stopped because of the maintenance; recovery must not restart it."""
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


async def test_a_primary_that_stops_during_a_handover_waits_for_it() -> None:
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
