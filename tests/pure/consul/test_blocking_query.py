"""The loop of blocking queries, with scripted answers."""

import asyncio
import itertools
from collections.abc import Coroutine
from contextlib import suppress

import pytest

from sidecar.consul.api import QueryResult
from sidecar.consul.blocking_query import Pace, RetryBudget, follow
from sidecar.runtime.errors import SidecarError, Unavailable
from tests.support.virtual_clock import VirtualClock

DOWN = Unavailable("no answer")


class Script:
    """Gives its answers one by one, then blocks; records the queries and the answers seen."""

    def __init__(self, *answers: QueryResult[str] | SidecarError) -> None:
        self.asked: list[int] = []
        self.seen: list[str] = []
        self.failures: list[str] = []
        self._answers = list(answers)

    async def query(self, index: int) -> QueryResult[str]:
        self.asked.append(index)
        if not self._answers:
            await asyncio.Event().wait()
        answer = self._answers.pop(0)
        if isinstance(answer, SidecarError):
            raise answer
        return answer

    def see(self, answer: QueryResult[str]) -> None:
        self.seen.append(answer.value)

    async def see_slowly(self, answer: QueryResult[str]) -> None:
        await asyncio.sleep(0)
        self.seen.append(answer.value)
        if answer.value == "bad":
            raise DOWN

    async def play(self, *, slowly: bool = False) -> None:
        clock = VirtualClock()
        see = self.see_slowly if slowly else self.see
        task = asyncio.create_task(follow(self.query, see, self.failures.append, clock))
        await clock.advance(60.0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def answer(value: str, index: int, known_leader: bool = True) -> QueryResult[str]:
    return QueryResult(value, index, known_leader)


def streamed(value: str, index: int) -> QueryResult[str]:
    return QueryResult(value, index, known_leader=False, streamed=True)


@pytest.mark.parametrize(
    ("answers", "asked", "seen", "failures"),
    [
        ((answer("x", 5), answer("y", 7)), [0, 5, 7], "xy", []),
        # The servers have restored an older state.
        ((answer("x", 5), answer("y", 3)), [0, 5, 0], "xy", []),
        # An index below 1 would never block.
        ((answer("x", 0),), [0, 1], "x", []),
        # After an error it may be another agent, with other indexes.
        ((answer("x", 5), DOWN, answer("y", 2)), [0, 5, 0, 2], "xy", ["no answer"]),
        (
            (answer("x", 5), answer("", 9, known_leader=False), answer("y", 6)),
            [0, 5, 0, 6],
            "xy",
            ["Consul's servers have no leader"],
        ),
        # The agent's own view says nothing about a leader, but its entries count.
        ((answer("x", 5), streamed("y", 7), streamed("z", 8)), [0, 5, 7, 8], "xyz", []),
        # Such a view lags: what is known is newer, and the servers are queried.
        ((answer("x", 5), streamed("w", 4), answer("y", 6)), [0, 5, 0, 6], "xy", []),
        # An agent without a leader is not queried for its view, which would hide that.
        (
            (
                answer("x", 5),
                streamed("y", 6),
                answer("", 6, known_leader=False),
                DOWN,
                answer("z", 7),
            ),
            [0, 5, 6, 0, 0, 7],
            "xyz",
            ["Consul's servers have no leader", "no answer"],
        ),
    ],
)
async def test_the_index_of_each_query(
    answers: tuple[QueryResult[str] | SidecarError, ...],
    asked: list[int],
    seen: str,
    failures: list[str],
) -> None:
    script = Script(*answers)
    await script.play()
    assert (script.asked, "".join(script.seen), script.failures) == (asked, seen, failures)


async def test_the_callback_may_take_time_and_may_fail() -> None:
    script = Script(answer("bad", 5), answer("good", 5))
    await script.play(slowly=True)
    assert (script.seen, script.asked) == (["bad", "good"], [0, 0, 5])
    assert script.failures == ["no answer"]


async def test_the_back_off_grows_with_failures_and_resets_after_an_answer() -> None:
    down = [DOWN] * 6
    script, clock = Script(*down, answer("x", 5), *down), VirtualClock()
    at: list[float] = []

    async def query(index: int) -> QueryResult[str]:
        at.append(clock.now())
        return await script.query(index)

    following = follow(query, script.see, script.failures.append, clock, Pace(1.0, 15.0))
    task = asyncio.create_task(following)
    await clock.advance(200.0)
    task.cancel()
    pauses = [round(after - before) for before, after in itertools.pairwise(at)]
    assert pauses == [1, 2, 4, 8, 15, 15, 0, 1, 2, 4, 8, 15, 15]


async def test_from_time_to_time_it_queries_without_an_index() -> None:
    clock, asked = VirtualClock(), []

    async def query(index: int) -> QueryResult[str]:
        asked.append(index)
        if index:
            await clock.sleep(30.0)  # as a quiet watch is answered
        return answer("x", 5)

    seen: list[str] = []
    pace = Pace(resync=100.0)
    task = asyncio.create_task(
        follow(query, lambda a: seen.append(a.value), seen.append, clock, pace)
    )
    await clock.advance(250.0)
    task.cancel()
    assert asked == [0, 5, 5, 5, 5, 0, 5, 5, 5, 5, 0, 5]


@pytest.mark.parametrize("every", [4.0, 30.0])
async def test_streamed_answers_are_confirmed_by_the_servers(every: float) -> None:
    """Whether the view is quiet, or changes all the time."""
    clock, plain, index = VirtualClock(), [], itertools.count(1)

    async def query(since: int) -> QueryResult[str]:
        if not since:
            plain.append(clock.now())
            return answer("x", next(index))
        await clock.sleep(every)
        return streamed("y", next(index))

    pace = Pace(resync=1e6, confirm=15.0)
    task = asyncio.create_task(follow(query, lambda _: None, lambda _: None, clock, pace))
    await clock.advance(3600.0)
    task.cancel()
    gaps = [after - before for before, after in itertools.pairwise(plain)]
    assert set(gaps) == {max(every, 16.0)}


async def test_answers_that_never_block_do_not_cause_a_busy_loop() -> None:
    clock, asked = VirtualClock(), []

    async def query(index: int) -> QueryResult[str]:
        asked.append(index)
        return answer("x", 0)  # no index

    task = asyncio.create_task(follow(query, lambda _: None, lambda _: None, clock))
    await clock.advance(10.0)
    task.cancel()
    assert 100 < len(asked) < 250


class Watches:
    """Watches that share a retry budget, and a Consul that is down for some seconds."""

    def __init__(self, count: int, away: float) -> None:
        self.clock = VirtualClock()
        self.began, self.away = self.clock.now(), away
        self.asked = [0] * count
        self.back: dict[int, float] = {}  # by watch: after how many seconds it has its answer

    async def _ask(self, number: int, index: int) -> QueryResult[str]:
        if index:
            await asyncio.Event().wait()
        self.asked[number] += 1
        passed = self.clock.now() - self.began
        if passed < self.away:
            raise DOWN
        self.back[number] = passed
        return answer("", 1)

    async def play(self, seconds: float) -> None:
        budget, pace = RetryBudget(), Pace(1.0, 15.0)

        def watch(number: int) -> Coroutine[None, None, None]:
            def query(index: int) -> Coroutine[None, None, QueryResult[str]]:
                return self._ask(number, index)

            return follow(query, lambda _: None, lambda _: None, self.clock, pace, budget)

        tasks = [asyncio.create_task(watch(number)) for number in range(len(self.asked))]
        await self.clock.advance(seconds)
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_many_watches_share_a_budget_while_consul_is_down() -> None:
    watches = Watches(225, away=1e6)
    await watches.play(600.0)
    # A first query each, and a burst; without a budget it would be 9,000.
    assert sum(watches.asked) <= 225 + 20 + 10 * 600
    assert min(watches.asked) >= 15  # and none starves


@pytest.mark.parametrize("away", [2.0, 600.0])
async def test_all_watches_recover_soon_after_the_first(away: float) -> None:
    watches = Watches(300, away)
    await watches.play(away + 30.0)
    assert len(watches.back) == 300
    first, last = min(watches.back.values()), max(watches.back.values())
    assert first <= away + 2.0
    assert last <= first + 1.0
