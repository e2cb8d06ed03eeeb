"""The election's loops with a model of Consul that loses answers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from sidecar.consul.api import Operation, Set
from sidecar.election import execute, own_candidacy
from sidecar.election.candidates import Candidate, Field
from sidecar.election.decision import Intent
from sidecar.election.keys import history, lock, orders
from sidecar.election.keys.orders import ElectionState, Kind, Order, Pause
from sidecar.election.lease import Role
from sidecar.election.loop import Election
from sidecar.election.rules import ElectionRules
from sidecar.events import Event, RoleChanged
from sidecar.registry.registration import InstanceInfo, InstanceMeta, registration
from sidecar.runtime.errors import Conflict, Rejected, Unavailable
from sidecar.settings.tables.election import ElectionSettings
from tests.support.consul_model import FakeConsul
from tests.support.rewording import any_words as any_words
from tests.support.virtual_clock import VirtualClock, settle

TTL = 15.0
PATIENCE = 60.0  # seconds of the real clock; machines are shared


class LossyConsul(FakeConsul):
    """It uses the test's clock; it can lose the answers to transactions and hang renewals."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock=clock)
        self.losing = False
        self.hanging = False
        self.refusing: Exception | None = None
        self.opened = 0
        self.asked = 0
        self.applied: Callable[[], None] = lambda: None  # after applying, before the answer

    async def session_create(
        self, name: str, *, ttl: float, lock_delay: float, service_checks: Sequence[str]
    ) -> str:
        self.opened += 1
        if self.refusing:
            raise self.refusing
        return await super().session_create(
            name, ttl=ttl, lock_delay=lock_delay, service_checks=service_checks
        )

    async def session_renew(self, session: str) -> None:
        if self.hanging:
            await asyncio.Event().wait()
        await super().session_renew(session)

    async def transact(self, *operations: Operation) -> Mapping[str, int]:
        self.asked += 1
        if self.refusing:
            raise self.refusing
        done = await super().transact(*operations)
        self.applied()
        if self.losing:
            raise Unavailable("the answer is lost")
        return done


class Scene:
    def __init__(
        self, clock: VirtualClock, consul: LossyConsul, name: str, rules: ElectionRules
    ) -> None:
        self.clock, self.consul = clock, consul
        self.events: list[Event] = []
        self.instance = InstanceInfo(
            name, "t", "127.0.0.1", 1, 1, (), (), ("m",), "127.0.0.1:2", "live"
        )
        self.election = Election(consul, self.instance, rules, clock, self.events.append)

    @property
    def role(self) -> Role:
        return self.election.role_epoch.value[0]

    @property
    def epoch(self) -> int:
        return self.election.role_epoch.value[1]

    @property
    def state(self) -> ElectionState:
        entries = self.consul.model.keys.values()
        return orders.read("t", entries, self.consul.model.index)

    async def ready(self) -> None:
        """Register and pass, as the publisher would."""
        await self.consul.register_service(registration(self.instance, InstanceMeta()))
        for check in (self.instance.verdict_check, self.instance.sidecar_check):
            await self.consul.update_check(check, "passing", "")

    def want(self, intent: Intent, **changes: Any) -> None:
        own = Candidate(self.instance.id, since=self.clock.now() - 1000)
        self.election.candidacy.set((intent, replace(own, **changes), "the test says so"))

    async def write(self, key: str, value: object) -> None:
        await self.consul.change(
            lambda now: self.consul.model.transact([Set(key, lock.dumps(value))], now)
        )
        await settle()


@asynccontextmanager
async def elections(
    *names: str, losing: bool = False, refusing: Exception | None = None, **settings: Any
) -> AsyncIterator[list[Scene]]:
    clock = VirtualClock()
    consul = LossyConsul(clock)
    given = ElectionSettings(session_ttl=TTL, **settings).rules
    scenes = [Scene(clock, consul, name, given) for name in names]
    for scene in scenes:
        await scene.ready()
    consul.losing, consul.refusing = losing, refusing
    loops = []
    for scene in scenes:
        scene.want(Intent.SEEK)
        loops += [
            asyncio.create_task(scene.election.watch()),
            asyncio.create_task(scene.election.run()),
        ]
        await settle()
    yield scenes
    assert [loop for loop in loops if loop.done()] == []
    for loop in loops:
        loop.cancel()


async def test_the_first_instance_takes_the_lock_and_the_next_one_leaves_it() -> None:
    async with elections("a", "b") as (a, b):
        assert (a.role, b.role) == (Role.PRIMARY, Role.STANDBY)
        assert a.epoch > 0
        await a.clock.advance(100)
        assert (a.role, b.role) == (Role.PRIMARY, Role.STANDBY)
        assert a.consul.opened == 2  # it renews


async def test_an_instance_that_yields_is_succeeded_at_once_with_a_higher_epoch() -> None:
    async with elections("a", "b") as (a, b):
        before = a.epoch
        a.want(Intent.YIELD)
        await settle()
        await asyncio.wait_for(a.election.closed(), PATIENCE)
        await a.clock.advance(1)
        assert (a.role, b.role) == (Role.STANDBY, Role.PRIMARY)
        assert b.epoch > before
        last = a.state.lock.last
        assert (last.instance if last else "") == "b"


async def test_an_instance_that_requested_its_release_claims_nothing_before_the_answer() -> None:
    """Another instance may have the lock by then."""
    async with elections("a", "b") as (a, b):
        claims: list[tuple[str | None, Role, int]] = []

        def applied() -> None:
            claims.append((a.state.lock.instance, a.election.role, a.election.epoch))

        a.consul.applied = applied
        a.want(Intent.YIELD)
        await settle()
        await a.clock.advance(1)
        assert claims[0] == (None, Role.UNCONFIRMED, 0)
        assert {role for holder, role, _ in claims if holder != "a"} <= {
            Role.UNCONFIRMED,
            Role.STANDBY,
        }
        assert b.role is Role.PRIMARY


async def test_a_lost_answer_to_the_release_is_not_a_claim_and_is_retried() -> None:
    async with elections("a") as (a,):
        order = Order("o", Kind.SWITCHOVER, a.clock.wall(), "ops", to="b", force=True)
        a.consul.losing = True
        await a.write(orders.order_key("t"), order)
        assert a.election.role is not Role.PRIMARY
        assert a.state.lock.session is None
        a.consul.losing = False
        await a.clock.advance(2)
        assert a.election.role is not Role.UNCONFIRMED


async def test_a_refused_release_is_retried_until_it_is_done() -> None:
    """Whatever happens to the order: it is unknown whether the lock has been released."""
    async with elections("a") as (a,):
        order = Order("o", Kind.SWITCHOVER, a.clock.wall(), "ops", to="b", force=True)
        a.consul.refusing = Unavailable("Consul is busy")
        await a.write(orders.order_key("t"), order)
        assert a.election.role is Role.UNCONFIRMED
        await a.consul.change(lambda now: a.consul.model.keys.pop(orders.order_key("t")))
        await settle()
        assert a.election.role is Role.UNCONFIRMED
        before, a.consul.refusing = a.state.lock.epoch, None
        await a.clock.advance(90)
        assert (a.role, a.state.lock.epoch > before) == (Role.PRIMARY, True)


async def test_an_instance_that_drains_keeps_the_lock_until_it_yields() -> None:
    async with elections("a", "b") as (a, b):
        a.want(Intent.KEEP)
        await a.clock.advance(40)
        assert (a.role, b.role) == (Role.PRIMARY, Role.STANDBY)


async def test_a_refused_session_is_retried() -> None:
    """Consul's own check of the sidecar runs a moment after the registration."""
    async with elections("a", refusing=Rejected("is in critical state")) as (a,):
        await a.clock.advance(5)
        assert a.role is Role.STANDBY
        a.consul.refusing = None
        await a.clock.advance(5)
        assert (a.role, a.state.lock.instance) == (Role.PRIMARY, "a")


@pytest.mark.parametrize("error", [Conflict("lock-delay"), Rejected("no"), Unavailable("down")])
async def test_repeated_refusals_slow_the_attempts_down(error: Exception) -> None:
    async with elections("a") as (a,):
        a.want(Intent.YIELD)
        await a.clock.advance(1)
        a.consul.refusing, a.consul.opened, a.consul.asked = error, 0, 0
        a.want(Intent.SEEK)
        await a.clock.advance(60)
        assert a.consul.opened < 15
        a.consul.refusing = None
        await a.clock.advance(10)
        assert a.role is Role.PRIMARY


async def test_a_lock_that_cannot_be_taken_yet_is_retried_slowly() -> None:
    async with elections("a", "b", lock_delay=30.0) as (a, b):
        await a.consul.update_check("a:verdict", "critical", "ill")
        a.want(Intent.YIELD, state="critical")
        a.consul.asked = 0
        await a.clock.advance(25)
        assert (b.role,) == (Role.STANDBY,)
        assert a.consul.asked < 25
        await a.clock.advance(20)
        assert (b.role,) == (Role.PRIMARY,)


async def test_a_lost_answer_to_the_acquisition_is_retried() -> None:
    async with elections("a", losing=True) as (a,):
        assert a.state.lock.instance == "a"
        a.consul.losing = False
        await a.clock.advance(2)
        assert (a.role, a.state.lock.instance) == (Role.PRIMARY, "a")
        assert a.consul.opened == 1
        assert len(history.read("t", a.consul.model.keys.values())) == 1


async def test_the_claim_ends_on_time_while_a_renewal_hangs_and_comes_back() -> None:
    async with elections("a") as (a,):
        epoch = a.epoch
        a.consul.hanging = True
        await a.clock.advance(TTL - 1)
        assert (a.role, a.epoch) == (Role.PRIMARY, epoch)
        await a.clock.advance(1)
        assert (a.role, a.epoch) == (Role.UNCONFIRMED, 0)


async def test_an_instance_that_was_suspended_is_a_follower_before_it_does_anything() -> None:
    async with elections("a") as (a,):
        a.clock._now += 3 * TTL  # no loop ran during that time
        assert (a.election.role, a.election.epoch) == (Role.STANDBY, 0)
        a.events.clear()
        await a.clock.advance(10)
        changes = [event for event in a.events if isinstance(event, RoleChanged)]
        assert changes[0].after == Role.STANDBY
        assert changes[-1].after == Role.PRIMARY


async def test_a_holder_whose_session_was_destroyed_takes_a_new_one() -> None:
    async with elections("a", "b") as (a, b):
        before = a.epoch
        session = next(iter(a.consul.model.sessions))
        await a.consul.session_destroy(session)
        await a.clock.advance(10)
        assert (a.role, b.role) == (Role.PRIMARY, Role.STANDBY)
        assert a.epoch > before
        assert a.consul.opened == 3


async def test_an_edited_epoch_is_repaired() -> None:
    async with elections("a") as (a,):
        before = a.epoch

        def edit(_: float) -> None:
            del a.consul.model.keys[lock.epoch_key("t")]
            a.consul.model.index += 1

        await a.consul.change(edit)
        await a.clock.advance(2)
        assert a.state.lock.instance == "a"
        assert a.epoch > before


async def test_an_order_is_executed_once_its_candidate_has_proven_itself() -> None:
    async with elections("a", "b") as (a, b):
        order = Order("o1", Kind.SWITCHOVER, a.clock.wall(), "me", None, "a new rack")
        await a.write(orders.order_key("t"), order)
        await a.clock.advance(1)
        assert (a.role, b.role) == (Role.PRIMARY, Role.STANDBY)
        named = b.state.order
        assert named
        assert named.to == "b"
        assert own_candidacy.wants_proof(b.state, "b", b.clock.wall())
        await execute.write_proof(named, "", b.election.context)
        await a.clock.advance(1)
        assert (a.role, b.role) == (Role.STANDBY, Role.PRIMARY)
        outcome = a.state.outcome
        assert outcome
        assert (outcome.order, outcome.done, outcome.why) == ("o1", True, "")
        assert a.state.order is None
        first, second = history.read("t", a.consul.model.keys.values())
        assert (first.to, first.by) == ("a", "")
        assert (second.to, second.by) == ("b", "a")
        assert second.epoch == b.epoch


async def test_a_candidate_that_does_not_take_the_role_is_not_waited_for_twice() -> None:
    async with elections("a", "b") as (a, b):
        b.want(Intent.YIELD)
        await b.clock.advance(1)
        order = Order("o1", Kind.SWITCHOVER, a.clock.wall(), "me", "b", force=True)
        await a.write(orders.order_key("t"), order)
        before = a.epoch
        await a.clock.advance(120)
        assert a.role is Role.PRIMARY
        assert a.epoch > before
        assert len(history.read("t", a.consul.model.keys.values())) == 2
        outcome = a.state.outcome
        assert outcome
        assert not outcome.done
        assert outcome.why


async def test_an_order_that_no_instance_can_follow_is_dropped_with_the_reason() -> None:
    async with elections("a") as (a,):
        order = Order("o1", Kind.SWITCHOVER, a.clock.wall(), "me")
        await a.write(orders.order_key("t"), order)
        await a.clock.advance(1)
        outcome = a.state.outcome
        assert outcome
        assert not outcome.done
        assert outcome.why


async def test_a_paused_mesh_leaves_the_role_where_it_is() -> None:
    async with elections("a", "b") as (a, b):
        await a.write(orders.pause_key("t"), Pause(a.clock.wall(), "me", "I am at work"))
        a.want(Intent.YIELD)
        await a.clock.advance(60)
        assert (a.role, b.role) == (Role.STANDBY, Role.STANDBY)
        a.want(Intent.SEEK)
        await a.clock.advance(1)
        assert (a.role, b.role) == (Role.PRIMARY, Role.STANDBY)


async def test_an_expired_pause_does_not_count() -> None:
    async with elections("a", "b") as (a, b):
        paused = Pause(a.clock.wall(), "me", until=a.clock.wall() + 30)
        await a.write(orders.pause_key("t"), paused)
        a.want(Intent.YIELD)
        await a.clock.advance(29)
        assert (b.role,) == (Role.STANDBY,)
        await a.clock.advance(6)
        assert (b.role,) == (Role.PRIMARY,)


async def test_each_change_of_role_is_an_event() -> None:
    async with elections("a") as (a,):
        a.want(Intent.YIELD)
        await a.clock.advance(1)
        changes = [event for event in a.events if isinstance(event, RoleChanged)]
        assert [(change.before, change.after) for change in changes] == [
            ("standby", "primary"),
            ("primary", "standby"),
        ]
        assert [change.epoch > 0 for change in changes] == [True, False]


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        (None, "files-1"),  # the lock has not been read yet
        ((Candidate("c", model_set="files-1"),), "files-1"),
        ((Candidate("c", "critical", model_set="files-1"),), ""),
        ((Candidate("c", model_set="files-2"),), ""),
        ((), ""),
    ],
)
async def test_a_model_set_that_no_instance_has_is_not_required(
    others: tuple[Candidate, ...] | None, expected: str
) -> None:
    clock = VirtualClock()
    own = InstanceInfo("a", "t", "127.0.0.1", 1, 1, (), (), ("m",), "h:2", "live")
    election = Election(FakeConsul(clock=clock), own, ElectionRules(), clock, lambda _: None)
    last = lock.Claim("b", "s", "then", 100, "files-1")
    election.state.set(ElectionState(lock.ElectionLock(last=last)))
    election._field = None if others is None else Field(others, clock.now())
    assert election.reference == expected
