"""A participant that is primary or waits: pauses, the history, strict mode."""

import asyncio
from typing import Any

from sidecar.consul.api import KVEntry, QueryResult, Set
from sidecar.election.keys import history, lock, orders
from sidecar.election.keys.orders import Pause
from sidecar.election.lease import Role
from sidecar.events import Paused
from sidecar.runtime.errors import Unavailable
from sidecar.verdict.evidence import Reason
from sidecar.verdict.verdict import Verdict
from sidecar.verdict.verdict_line import State
from tests.support.election_stage import TTL, Stage, stage
from tests.support.rewording import any_words as any_words
from tests.support.virtual_clock import settle


async def pause(it: Stage, until: float | None = None) -> None:
    made = Pause(it.clock.wall(), "anna@desk", "new switches", until)
    await it.consul.transact(Set(orders.pause_key("t"), lock.dumps(made)))
    await settle()


async def test_while_paused_no_instance_takes_the_role() -> None:
    async with stage(a={}, b={}) as it:
        a, b = it.actors.values()
        await pause(it, it.clock.wall() + 100)
        assert a.participant.paused.value
        assert list(a.events_of(Paused)) == [Paused(a.participant.paused.value)]
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


async def test_the_history_records_the_cost_of_a_change() -> None:
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


async def test_a_brief_outage_of_consul_does_not_lose_the_cost() -> None:
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
        assert not a.participant.may_serve()  # a second before another could begin to serve
        assert not a.participant.shown.value.serving
        assert a.role in (Role.PRIMARY, Role.UNCONFIRMED)


async def test_outside_strict_mode_losing_consul_stops_nothing() -> None:
    async with stage(a={}) as it:
        (a,) = it.actors.values()

        async def lost(*_: object, **__: object) -> None:
            await asyncio.Event().wait()

        it.consul.session_renew = lost  # type: ignore[method-assign]
        await it.clock.advance(TTL * 3)
        assert a.role is not Role.PRIMARY
        assert a.participant.may_serve()
        assert a.participant.shown is a.assessment.verdict
