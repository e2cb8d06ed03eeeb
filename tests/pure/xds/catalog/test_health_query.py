"""Queries to vanished instances, with scripted replies; and the replies of real health services."""

import asyncio
import math
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar.xds.catalog import health_query
from sidecar.xds.catalog.catalog import Instance
from sidecar.xds.catalog.health_query import HealthQueries, HealthReply, ask
from tests.support.virtual_clock import VirtualClock

A = Instance("a", "10.0.0.1", 8001, 9001)
B = Instance("b", "10.0.0.2", 8001, 9001)


class Scene:
    """A hearing; `replies` is what each says, and who has none does not answer."""

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


async def test_each_is_queried_at_once_and_again() -> None:
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
        assert [said.silent for said in scene.queries.reports.values()] == [True, True]
        scene.replies["a"] = HealthReply.GONE
        await scene.clock.advance(6.0)
        assert scene.queries.reports["a"].gone
        scene.replies["a"] = HealthReply.SERVES
        await scene.clock.advance(6.0)
        assert [said.silent for said in scene.queries.reports.values()] == [False, True]
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
async def test_a_fleet_is_asked_a_few_at_a_time(missing: int, at_once: int) -> None:
    async with running() as scene:
        scene.queries.set_missing(fleet(missing))
        await scene.clock.advance(4.0)
        assert len(scene.asked) == missing
        assert scene.most == at_once


async def test_when_each_was_asked_first_is_known() -> None:
    async with running() as scene:
        scene.queries.set_missing(fleet(9))
        summoned = scene.clock.now()
        assert {said.asked for said in scene.queries.reports.values()} == {math.inf}
        await scene.clock.advance(60.0)
        heard = scene.queries.reports
        assert (heard["i0"].asked, heard["i8"].asked) == (
            summoned,
            summoned + 0.1,
        )  # eight at a time


async def test_one_that_is_back_before_its_turn_is_not_asked() -> None:
    async with running() as scene:
        scene.queries.set_missing(found := fleet(9))
        await scene.clock.advance(0.05)
        scene.queries.set_missing(found[:8])
        await scene.clock.advance(60.0)
        assert "i8" not in scene.asked


# --- a real question ----------------------------------------------------------------------------


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Server and client are this process, which may get no turn for longer than anybody waits."""
    monkeypatch.setattr(health_query, "_TIMEOUT", 60.0)


class Health(health_pb2_grpc.HealthServicer):
    """As a sidecar's."""

    def __init__(self, healthy: bool) -> None:
        self._healthy = healthy

    async def Check(self, request: Any, context: Any) -> Any:
        status = health_pb2.HealthCheckResponse
        return status(status=status.SERVING if self._healthy else status.NOT_SERVING)


@asynccontextmanager
async def server(*, healthy: bool | None) -> AsyncIterator[Instance]:
    """One that serves, does not, or knows no health service."""
    found = grpc.aio.server()
    if healthy is not None:
        health_pb2_grpc.add_HealthServicer_to_server(Health(healthy), found)
    port = found.add_insecure_port("127.0.0.1:0")
    await found.start()
    yield Instance("a", "127.0.0.1", 1, port)
    await found.stop(None)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("healthy", "reply"),
    [(True, HealthReply.SERVES), (False, HealthReply.GONE), (None, HealthReply.GONE)],
)
async def test_what_a_server_says(healthy: bool | None, reply: HealthReply) -> None:
    async with server(healthy=healthy) as instance:
        assert await ask(instance) is reply


@pytest.mark.usefixtures("patient")
async def test_without_a_listener_it_is_gone() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        assert await ask(Instance("a", "127.0.0.1", 1, port)) is HealthReply.GONE


async def test_a_listener_that_does_not_answer_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_query, "_TIMEOUT", 0.05)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        port = mute.getsockname()[1]
        assert await ask(Instance("a", "127.0.0.1", 1, port)) is HealthReply.SILENCE
