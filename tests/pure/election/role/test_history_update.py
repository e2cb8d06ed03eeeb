"""A tenure's history entry is completed exactly once, however often Consul fails."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.consul.api import Delete, KVEntry, Lock, Operation, QueryResult, Set
from sidecar.election.execute import ElectionContext
from sidecar.election.keys import history, lock
from sidecar.election.keys.history import KEPT, Entry
from sidecar.election.lease import Role
from sidecar.election.role.history_update import HistoryUpdate
from sidecar.runtime.errors import Unavailable
from sidecar.runtime.latest import Latest
from tests.support.consul_model import FakeConsul
from tests.support.virtual_clock import VirtualClock, settle

LOST, UNHEARD = "never reaches Consul", "is done, and nobody hears of it"


class FlakyConsul(FakeConsul):
    """`outcomes` are those of the next requests; later requests succeed."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock=clock)
        self.outcomes: list[str | None] = []
        self.requests = 0

    def next(self) -> str | None:
        self.requests += 1
        return self.outcomes.pop(0) if self.outcomes else None

    async def kv_prefix(self, prefix: str, **how: Any) -> QueryResult[tuple[KVEntry, ...]]:
        if self.next():
            raise Unavailable("Consul: no answer")
        return await super().kv_prefix(prefix, **how)

    async def transact(self, *operations: Operation) -> Mapping[str, int]:
        outcome = self.next()
        if outcome == LOST:
            raise Unavailable("Consul: no answer")
        done = await super().transact(*operations)
        if outcome == UNHEARD:
            raise Unavailable("Consul: no answer")
        return done


class Scene:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.consul = FlakyConsul(self.clock)
        self.role_epoch: Latest[tuple[Role, int]] = Latest((Role.STANDBY, 0))
        self.session: str | None = None
        self.asked: list[float] = []
        self.counted: tuple[int, int] | None = (1200, 3)
        context = ElectionContext(
            consul=self.consul,
            service="t",
            instance="a",
            checks=tuple,
            lock_delay=0.0,
            now=self.clock.now,
            wall=self.clock.wall,
            order_id=str,
        )
        self.aftermath = HistoryUpdate(
            self.role_epoch, lambda: self.session, context, self._count, self.clock
        )

    async def _count(self, seconds: float) -> tuple[int, int] | None:
        if self.consul.next():
            raise Unavailable("Consul: no answer")
        # The cost of the change is counted up to now, however late that happens.
        assert seconds == pytest.approx(3.0 + 2.0 + self.clock.now() - self.taken)
        self.asked.append(seconds)
        return self.counted

    async def take(self, at: str = "2026-11-29T10:00:00Z") -> int:
        """Take the lock, as the election does; returns the epoch."""
        consul = self.consul
        self.session = await consul.session_create("s", ttl=86400, lock_delay=0, service_checks=())
        entry = Entry(at, "a", "b gave it up", "b", without=2.0)
        epoch = lock.epoch_key("t")
        done = await FakeConsul.transact(
            consul,
            Lock(lock.lock_key("t"), b"{}", self.session),
            Set(epoch, self.session.encode()),
            Set(history.key("t", entry), lock.dumps(entry), 0),
        )
        self.taken = self.clock.now()
        self.stand(Role.PRIMARY, done[epoch])
        return done[epoch]

    async def lose(self) -> None:
        assert self.session
        await self.consul.session_destroy(self.session)
        self.session = None
        self.stand(Role.STANDBY, 0)

    def stand(self, role: Role, epoch: int) -> None:
        self.role_epoch.set((role, epoch))

    async def entries(self) -> Sequence[Entry]:
        found = (await FakeConsul.kv_prefix(self.consul, history.prefix("t"))).value
        return history.read("t", found)

    async def newest(self) -> Entry:
        return (await self.entries())[-1]

    async def write_many(self, count: int) -> None:
        for number in range(count):
            entry = Entry(f"2026-01-01T{number:06}", "b", "long ago")
            await FakeConsul.transact(self.consul, Set(history.key("t", entry), lock.dumps(entry)))


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    made = Scene()
    loop = asyncio.create_task(made.aftermath.run())
    await settle()
    try:
        yield made
        assert not loop.done()
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)


async def test_the_cost_is_counted_when_envoys_have_followed() -> None:
    async with scene() as it:
        epoch = await it.take()
        await it.clock.advance(2.9)
        assert it.consul.requests == 0
        await it.clock.advance(0.2)
        counted = await it.newest()
        assert counted == Entry(
            "2026-11-29T10:00:00Z", "a", counted.cause, "b", "", 2.0, 1200, 3, 8.0
        )
        assert counted.epoch == epoch
        requests = it.consul.requests
        await it.clock.advance(10_000)
        assert it.consul.requests == requests  # it is done


@settings(max_examples=60)
@given(st.lists(st.sampled_from([None, LOST, UNHEARD]), max_size=12))
def test_whatever_fails_the_entry_is_completed_once_and_the_history_trimmed(
    outcomes: list[str | None],
) -> None:
    async def run() -> None:
        async with scene() as it:
            await it.write_many(KEPT + 70)
            others = (await it.entries())[71:]
            it.consul.outcomes = list(outcomes)
            await it.take()
            await it.clock.advance(900)
            *before, own = await it.entries()
            assert before == list(others)
            assert (own.requests, own.failed) == (1200, 3)
            assert own.over in [round(span, 1) for span in it.asked]
            assert it.asked == sorted(it.asked)
            requests = it.consul.requests
            await it.clock.advance(10_000)
            assert it.consul.requests == requests

    asyncio.run(run())


async def test_retries_slow_down_while_consul_is_unreachable() -> None:
    async with scene() as it:
        it.consul.outcomes = [LOST] * 10_000
        await it.take()
        await it.clock.advance(3600)
        assert 30 < it.consul.requests < 80
        it.consul.outcomes = []
        await it.clock.advance(61)
        assert (await it.newest()).failed == 3


async def test_a_claim_that_is_confirmed_again_belongs_to_the_same_tenure() -> None:
    async with scene() as it:
        it.consul.outcomes = [LOST] * 5
        epoch = await it.take()
        await it.clock.advance(5)
        it.stand(Role.UNCONFIRMED, 0)
        await it.clock.advance(20)
        assert (await it.newest()).failed is None
        it.consul.outcomes = []
        it.stand(Role.PRIMARY, epoch)
        await settle()
        assert (await it.newest()).failed == 3
        it.stand(Role.UNCONFIRMED, 0)
        await settle()
        it.stand(Role.PRIMARY, epoch)
        await it.clock.advance(100)
        assert len(it.asked) == 1


async def test_the_entry_of_an_ended_tenure_is_not_changed_and_the_next_one_is_completed() -> None:
    async with scene() as it:
        it.consul.outcomes = [LOST] * 5
        await it.take()
        await it.clock.advance(4)
        await it.lose()
        await settle()
        requests = it.consul.requests
        await it.clock.advance(100)
        assert it.consul.requests == requests
        it.consul.outcomes = []
        await it.take("2026-11-29T11:00:00Z")
        await it.clock.advance(4)
        first, second = await it.entries()
        assert (first.failed, second.failed) == (None, 3)


async def test_without_the_lock_nothing_is_written() -> None:
    async with scene() as it:
        await it.take()
        assert it.session
        await it.consul.session_destroy(it.session)  # its loop has not noticed yet
        await it.clock.advance(30)
        assert (await it.newest()).failed is None


async def test_an_entry_that_was_removed_stays_removed() -> None:
    async with scene() as it:
        await it.take()
        count = it._count

        async def removed(seconds: float) -> tuple[int, int] | None:
            for entry in (await FakeConsul.kv_prefix(it.consul, history.prefix("t"))).value:
                await FakeConsul.transact(it.consul, Delete(entry.key, entry.modify_index))
            return await count(seconds)

        it.aftermath._count = removed
        await it.clock.advance(100)
        assert await it.entries() == ()


async def test_without_a_count_the_entry_records_that_and_is_not_retried() -> None:
    async with scene() as it:
        it.counted = None
        await it.take()
        before = await it.newest()
        await it.clock.advance(1000)
        assert await it.newest() == before
        assert len(it.asked) == 1


@pytest.mark.parametrize("hidden", [True, False])
async def test_an_entry_that_is_not_returned_is_not_taken_for_completed(hidden: bool) -> None:
    async with scene() as it:
        await it.take()
        shown = it.consul.kv_prefix

        async def nothing(prefix: str, **how: Any) -> QueryResult[tuple[KVEntry, ...]]:
            answer = await shown(prefix, **how)
            return replace(answer, value=()) if hidden else answer

        it.consul.kv_prefix = nothing  # type: ignore[method-assign]
        await it.clock.advance(30)
        assert ((await it.newest()).failed is None) == hidden
        hidden = False
        await it.clock.advance(61)
        assert (await it.newest()).failed == 3
