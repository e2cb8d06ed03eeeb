"""The election's loops against a model of Consul that loses answers."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from sidecar.election import lock
from sidecar.election.decision import Intent, Role
from sidecar.election.loop import Election
from sidecar.errors import Rejected, Unavailable
from sidecar.events import Event, RoleChanged
from sidecar.registry.record import Instance, Standing, registration
from sidecar.settings.tables import ElectionSettings
from tests.consul_model import FakeConsul
from tests.virtual_clock import VirtualClock, settle

TTL = 15.0


class LossyConsul(FakeConsul):
    """Its clock is the test's; it can lose the answers to acquisitions and hang renewals."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock=clock)
        self.losing = False
        self.hanging = False
        self.refusing = False
        self.opened = 0

    async def session_create(
        self, name: str, *, ttl: float, lock_delay: float, service_checks: Sequence[str]
    ) -> str:
        self.opened += 1
        if self.refusing:
            raise Rejected("500 Check 'a:sidecar' is in critical state")
        return await super().session_create(
            name, ttl=ttl, lock_delay=lock_delay, service_checks=service_checks
        )

    async def session_renew(self, session: str) -> None:
        if self.hanging:
            await asyncio.Event().wait()
        await super().session_renew(session)

    async def acquire(self, lock: str, epoch: str, session: str, value: bytes) -> int | None:
        taken = await super().acquire(lock, epoch, session, value)
        if self.losing:
            raise Unavailable("the answer is lost")
        return taken


class Scene:
    def __init__(self, clock: VirtualClock, consul: LossyConsul, name: str) -> None:
        self.clock, self.consul = clock, consul
        self.events: list[Event] = []
        self.instance = Instance(
            name, "t", "127.0.0.1", 1, 1, (), (), ("m",), "127.0.0.1:2", "live"
        )
        self.election = Election(
            consul, self.instance, ElectionSettings(session_ttl=TTL), clock, self.events.append
        )

    @property
    def role(self) -> Role:
        return self.election.standing.value[0]

    @property
    def epoch(self) -> int:
        return self.election.standing.value[1]

    async def ready(self) -> None:
        """Register and pass, as the publisher would."""
        await self.consul.register_service(registration(self.instance, Standing()))
        for check in (self.instance.verdict_check, self.instance.sidecar_check):
            await self.consul.update_check(check, "passing", "")

    def held_by(self) -> str | None:
        entries = self.consul.model.keys.values()
        return lock.read("t", entries, self.consul.model.index).instance


@asynccontextmanager
async def elections(
    *names: str, losing: bool = False, refusing: bool = False
) -> AsyncIterator[list[Scene]]:
    clock = VirtualClock()
    consul = LossyConsul(clock)
    consul.losing, consul.refusing = losing, refusing
    scenes = [Scene(clock, consul, name) for name in names]
    loops = []
    for scene in scenes:
        await scene.ready()
        scene.election.intent.set(Intent.SEEK)
        loops += [
            asyncio.create_task(scene.election.watch()),
            asyncio.create_task(scene.election.run()),
        ]
        await settle()
    yield scenes
    assert [loop for loop in loops if loop.done()] == []
    for loop in loops:
        loop.cancel()


async def test_the_first_one_takes_the_lock_and_the_next_one_leaves_it() -> None:
    async with elections("a", "b") as (a, b):
        assert (a.role, b.role) == (Role.PRIMARY, Role.STANDBY)
        assert a.epoch > 0
        await a.clock.advance(100)
        assert (a.role, b.role) == (Role.PRIMARY, Role.STANDBY)
        assert a.consul.opened == 2  # it renews


async def test_who_yields_is_followed_at_once_and_with_a_higher_epoch() -> None:
    async with elections("a", "b") as (a, b):
        before = a.epoch
        a.election.intent.set(Intent.YIELD)
        await settle()
        await asyncio.wait_for(a.election.closed(), 5)
        await a.clock.advance(1)
        assert (a.role, b.role) == (Role.STANDBY, Role.PRIMARY)
        assert b.epoch > before


async def test_who_drains_keeps_the_lock_until_it_yields() -> None:
    async with elections("a", "b") as (a, b):
        a.election.intent.set(Intent.KEEP)
        await a.clock.advance(40)
        assert (a.role, b.role) == (Role.PRIMARY, Role.STANDBY)


async def test_a_session_that_is_refused_is_asked_for_again() -> None:
    """Consul's own check of the sidecar runs a moment after the registration."""
    async with elections("a", refusing=True) as (a,):
        await a.clock.advance(5)
        assert a.role is Role.STANDBY
        a.consul.refusing = False
        await a.clock.advance(5)
        assert (a.role, a.held_by()) == (Role.PRIMARY, "a")


async def test_a_lost_answer_to_the_acquisition_is_made_up_for() -> None:
    async with elections("a", losing=True) as (a,):
        assert (a.role, a.held_by()) == (Role.STANDBY, "a")
        a.consul.losing = False
        await a.clock.advance(2)
        assert (a.role, a.held_by()) == (Role.PRIMARY, "a")
        assert a.consul.opened == 1


async def test_the_claim_ends_on_time_while_a_renewal_hangs_and_comes_back() -> None:
    async with elections("a") as (a,):
        epoch = a.epoch
        a.consul.hanging = True
        await a.clock.advance(TTL - 1)
        assert (a.role, a.epoch) == (Role.PRIMARY, epoch)
        await a.clock.advance(1)
        assert (a.role, a.epoch) == (Role.UNCONFIRMED, 0)
        a.consul.hanging = False
        await a.clock.advance(2)
        assert (a.role, a.epoch) == (Role.PRIMARY, epoch)


async def test_a_holder_whose_session_was_destroyed_takes_a_new_one() -> None:
    async with elections("a") as (a,):
        before = a.epoch
        session = next(iter(a.consul.model.sessions))
        await a.consul.session_destroy(session)
        await a.clock.advance(10)
        assert a.role is Role.PRIMARY
        assert a.epoch > before
        assert a.consul.opened == 2


async def test_somebody_elses_edit_of_the_epoch_is_mended() -> None:
    async with elections("a") as (a,):
        before = a.epoch

        def edit(_: float) -> None:
            del a.consul.model.keys[lock.epoch_key("t")]
            a.consul.model.index += 1

        await a.consul.change(edit)
        await a.clock.advance(2)
        assert a.held_by() == "a"
        assert a.epoch > before


async def test_an_event_tells_each_change_of_role() -> None:
    async with elections("a") as (a,):
        a.election.intent.set(Intent.YIELD)
        await a.clock.advance(1)
        changes = [event for event in a.events if isinstance(event, RoleChanged)]
        assert [(change.before, change.after) for change in changes] == [
            ("standby", "primary"),
            ("primary", "standby"),
        ]
        assert [change.epoch > 0 for change in changes] == [True, False]
