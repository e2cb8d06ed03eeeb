"""Health queries: which missing instances are queried, when, and what their replies mean."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from sidecar.xds.catalog.catalog import Instance
from sidecar.xds.catalog.health_query import HealthQueries, HealthReply
from tests.support.virtual_clock import VirtualClock

A = Instance("a", "10.0.0.1", 8001, 9001)
B = Instance("b", "10.0.0.2", 8001, 9001)


class Scene:
    """Health queries;

    `replies` is what each instance reports; one without a reply does not answer.
    """

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.replies: dict[str, HealthReply] = {}
        self.asked: list[str] = []
        self.open = self.most = 0
        self.queries = HealthQueries(self.ask, self.clock, lambda: None)

    async def ask(self, instance: Instance) -> HealthReply:
        self.asked.append(instance.id)
        self.open += 1
        self.most = max(self.most, self.open)
        await self.clock.sleep(0.1)
        self.open -= 1
        return self.replies.get(instance.id, HealthReply.SILENCE)


def fleet(size: int) -> list[Instance]:
    return [Instance(f"i{number}", "10.0.0.1", 1, 2) for number in range(size)]


@asynccontextmanager
async def running() -> AsyncIterator[Scene]:
    scene = Scene()
    task = asyncio.create_task(scene.queries.run())
    yield scene
    task.cancel()


async def test_no_instance_is_queried_while_none_is_missing() -> None:
    async with running() as scene:
        await scene.clock.advance(60.0)
        assert scene.asked == []


async def test_each_missing_instance_is_queried_at_once_and_again() -> None:
    async with running() as scene:
        scene.replies["a"] = HealthReply.SERVES
        scene.queries.set_missing([A, B])
        answered = scene.clock.now() + 0.1
        await scene.clock.advance(1.0)
        assert sorted(scene.asked) == ["a", "b"]
        assert (scene.queries.reports["a"].alive, scene.queries.reports["b"].alive) == (
            answered,
            None,
        )
        scene.replies["a"] = HealthReply.SILENCE
        await scene.clock.advance(60.0)
        assert scene.queries.reports["a"].alive == answered
        assert [report.silent for report in scene.queries.reports.values()] == [True, True]
        scene.replies["a"] = HealthReply.GONE
        await scene.clock.advance(6.0)
        assert scene.queries.reports["a"].gone
        scene.replies["a"] = HealthReply.SERVES
        await scene.clock.advance(6.0)
        assert [report.silent for report in scene.queries.reports.values()] == [False, True]
        assert not scene.queries.reports["a"].gone


async def test_a_report_is_forgotten_when_the_instance_is_back() -> None:
    async with running() as scene:
        scene.replies["a"] = HealthReply.GONE
        scene.queries.set_missing([A])
        await scene.clock.advance(1.0)
        scene.queries.set_missing([])
        assert scene.queries.reports == {}
        await scene.clock.advance(60.0)
        assert scene.asked == ["a"]


@pytest.mark.parametrize(("missing", "at_once"), [(40, 8), (100, 10), (1000, 64)])
async def test_many_missing_instances_are_queried_a_few_at_a_time(
    missing: int, at_once: int
) -> None:
    async with running() as scene:
        scene.queries.set_missing(fleet(missing))
        await scene.clock.advance(4.0)
        assert len(scene.asked) == missing
        assert scene.most == at_once


async def test_the_time_of_the_first_query_is_known() -> None:
    async with running() as scene:
        scene.queries.set_missing(fleet(9))
        missing_at = scene.clock.now()
        assert {report.asked for report in scene.queries.reports.values()} == {math.inf}
        await scene.clock.advance(60.0)
        reports = scene.queries.reports
        assert (reports["i0"].asked, reports["i8"].asked) == (
            missing_at,
            missing_at + 0.1,
        )  # eight at a time


async def test_an_instance_that_is_back_before_its_turn_is_not_queried() -> None:
    async with running() as scene:
        scene.queries.set_missing(found := fleet(9))
        await scene.clock.advance(0.05)
        scene.queries.set_missing(found[:8])
        await scene.clock.advance(60.0)
        assert "i8" not in scene.asked
