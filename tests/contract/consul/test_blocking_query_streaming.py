"""The contract of a streaming agent: a real one from 1.10 on, or an older one behind the proxy.

The facts are in docs/decisions/0025.
"""

import asyncio
import itertools
import json
import urllib.request
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.consul_agent import ConsulAgent, is_streamed
from tests.support.streaming.front import streaming
from tests.support.streaming.program import listener
from tests.support.streaming.view import Ask, Refused, Shown, View, pause

_names = itertools.count()


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, with the ids of the services in it."""

    status: int
    headers: Mapping[str, str]
    body: str

    @property
    def backend(self) -> str:
        return self.headers["X-Consul-Query-Backend"]

    @property
    def index(self) -> int:
        return int(self.headers["X-Consul-Index"])

    @property
    def ids(self) -> list[str]:
        return [entry["Service"]["ID"] for entry in json.loads(self.body)]

    @property
    def silent(self) -> bool:
        """Whether it has no headers about a leader or freshness."""
        about = (self.headers["X-Consul-KnownLeader"], self.headers["X-Consul-LastContact"])
        return about == ("false", "0")


class Agent:
    """Queries to the agent at an address."""

    def __init__(self, address: str) -> None:
        self._url = f"http://{address}/v1/"

    async def ask(self, path: str, **parameters: str) -> Answer:
        async with (
            aiohttp.ClientSession() as session,
            session.get(self._url + path, params=parameters) as answer,
        ):
            return Answer(answer.status, answer.headers, await answer.text())

    async def watch(self, name: str, index: int, wait: str = "60s", **more: str) -> Answer:
        return await self.ask(f"health/service/{name}", index=str(index), wait=wait, **more)

    async def put(self, path: str, body: object) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.put(self._url + path, json=body) as answer,
        ):
            assert answer.ok, await answer.text()

    async def register(self, name: str, *ids: str) -> None:
        for own in ids:
            await self.put("agent/service/register", {"ID": own, "Name": name, "Port": 1})


@pytest.fixture
async def agent(consul_agent: ConsulAgent) -> AsyncIterator[Agent]:
    """A streaming agent."""
    if _streams(consul_agent.http):
        yield Agent(consul_agent.http)
        return
    async with streaming(consul_agent.http) as address:
        yield Agent(address)


@pytest.fixture
def name() -> str:
    """A service name for each test, since they share one agent."""
    return f"streamed{next(_names)}"


def _streams(address: str) -> bool:
    with urllib.request.urlopen(f"http://{address}/v1/health/service/x?index=1&wait=1ms") as answer:
        return is_streamed(answer.headers)


async def test_the_servers_answer_a_query_without_an_index(agent: Agent, name: str) -> None:
    await agent.register(name, "a")
    for parameters in ({}, {"stale": "1"}, {"consistent": "1"}, {"index": "0"}):
        said = await agent.ask(f"health/service/{name}", **parameters)
        assert (said.backend, said.silent, said.ids) == ("blocking-query", False, ["a"])


@pytest.mark.parametrize("manner", [{}, {"stale": "1"}, {"consistent": "1"}])
async def test_the_view_answers_a_blocking_query(
    agent: Agent, name: str, manner: dict[str, str]
) -> None:
    await agent.register(name, "a")
    plain = await agent.ask(f"health/service/{name}")
    at_once = await agent.watch(name, 1, **manner)
    later = await agent.watch(name, at_once.index, "50ms", **manner)
    beyond = await agent.watch(name, at_once.index + 1000, "50ms", **manner)
    for said in (at_once, later, beyond):
        assert (said.status, said.backend, said.silent) == (200, "streaming", True)
        assert (said.index, said.ids) == (plain.index, ["a"])


async def test_a_change_wakes_blocked_queries(agent: Agent, name: str) -> None:
    await agent.register(name, "a")
    first = await agent.watch(name, 1)
    waiting = asyncio.create_task(agent.watch(name, first.index))
    await agent.register(name, "b")
    said = await waiting
    assert said.index > first.index
    assert said.ids == ["a", "b"]


async def test_queries_that_are_not_streamed(agent: Agent, name: str) -> None:
    await agent.register(name, "a")
    wait = {"index": "1", "wait": "50ms"}
    for path, more in (
        (f"kv/{name}", {"recurse": "1"}),
        (f"catalog/service/{name}", {}),
        ("health/node/node", {}),
        (f"health/service/{name}", {"near": "_agent"}),
    ):
        said = await agent.ask(path, **wait, **more)
        assert (said.backend, said.silent) == ("blocking-query", False)


async def test_a_malformed_query_is_rejected(agent: Agent) -> None:
    for index, wait in (("x", "1s"), ("1", "x"), ("1", "7")):
        said = await agent.ask("health/service/x", index=index, wait=wait)
        assert said.status == 400


# --- only behind the proxy ----------------------------------------------------------------------


async def test_without_servers_the_agent_serves_the_view_and_it_resets_when_they_do(
    tmp_path: Path,
) -> None:
    with ConsulAgent.running(tmp_path) as servers:
        async with streaming(servers.http) as address:
            agent = Agent(address)
            await agent.register("web", "a", "b")
            known = await agent.watch("web", 1)
            waiting = asyncio.create_task(agent.watch("web", known.index))
            await asyncio.sleep(0.1)
            servers.stop()
            assert (await waiting).status == 503
            for _ in range(2):
                said = await agent.watch("web", known.index, "50ms")
                assert (said.status, said.index, said.ids) == (200, known.index, ["a", "b"])
            # A new view has no data, and answers with an empty list.
            fresh = await agent.watch("nobody-yet", 1, "50ms")
            assert (fresh.status, fresh.index, fresh.ids) == (200, 1, [])
            for path in ("health/service/web", "kv/x", "status/leader"):
                assert (await agent.ask(path)).status == 500
            await asyncio.to_thread(servers.start)  # its state is lost
            while (said := await agent.watch("web", known.index, "50ms")).index >= known.index:
                assert said.status in (200, 503)
            assert said.ids == []
            await agent.register("web", "c")
            assert (await agent.watch("web", said.index)).ids == ["c"]


async def test_reconnects_to_the_servers_back_off() -> None:
    assert [pause(failures, 0.0) for failures in (1, 2, 3, 4, 20)] == [0.0, 0.2, 0.4, 0.8, 60.0]
    assert pause(20, 1.0) == 120.0


async def test_an_interruption_fails_blocked_queries_and_later_ones_get_the_last_view() -> None:
    view = View(_servers_answering(Shown(7, b"[1]"), Refused(403, "ACL not found")))
    waiting = asyncio.create_task(view.query(7, 60.0))
    keeping = asyncio.create_task(view.keep())
    assert await waiting == Refused(403, "ACL not found")
    assert await view.query(7, 0.0) == Shown(7, b"[1]")
    keeping.cancel()


async def test_an_unchanged_answer_wakes_no_query() -> None:
    view = View(_servers_answering(Shown(7, b"[1]"), Shown(8, b"[1]"), Shown(9, b"[2]")))
    waiting = asyncio.create_task(view.query(7, 60.0))
    keeping = asyncio.create_task(view.keep())
    assert await waiting == Shown(9, b"[2]")
    keeping.cancel()


def _servers_answering(*answers: Shown | Refused) -> Ask:
    """Servers that give these answers, in order."""
    left = iter(answers)

    async def ask(index: int) -> Shown | Refused:
        for answer in left:
            return answer
        return await asyncio.Future[Shown]()

    return ask


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({}, "127.0.0.1:8500"),
        ({"ports": {"http": 1234}}, "127.0.0.1:1234"),
        ({"client_addr": "0.0.0.0"}, "0.0.0.0:8500"),
    ],
)
def test_the_address_the_program_listens_on(
    tmp_path: Path, settings: dict[str, Any], where: str
) -> None:
    file = tmp_path / "agent.json"
    file.write_text(json.dumps(settings))
    assert listener(["agent", "-config-file=/etc/consul.hcl", f"-config-file={file}"]) == where
