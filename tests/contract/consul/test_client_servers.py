"""The answers of an agent without servers: a real client agent, and the model."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from sidecar.consul.access import ConsulAccess
from sidecar.consul.api import ConsulApi, QueryResult, ServiceEntry, Set
from sidecar.consul.client import Consul
from sidecar.runtime.errors import Unavailable
from tests.support.consul_agent import ConsulAgent
from tests.support.consul_model import FakeConsul, Generation, Servers

CHECK = {"CheckID": "a:verdict", "Name": "verdict", "TTL": "1h"}
BODY = {"Name": "triton", "ID": "a", "Address": "127.0.0.1", "Port": 1, "Checks": [CHECK]}


@dataclass(frozen=True, slots=True)
class Scene:
    consul: ConsulApi
    generation: Generation
    kill_servers: Callable[[], Awaitable[None]]
    restart_agent: Callable[[], Awaitable[None]]


@pytest.fixture(params=["agent", *Generation], ids=str)
async def scene(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    if request.param != "agent":
        model = FakeConsul(generation=request.param)
        yield Scene(
            model,
            request.param,
            lambda: model.set_servers(Servers.GONE),
            model.restart_agent,
        )
        return
    folders = [tmp_path / name for name in ("server", "client")]
    for folder in folders:
        folder.mkdir()
    with (
        ConsulAgent.running(folders[0]) as server,
        ConsulAgent.running(folders[1], of=server) as client,
    ):

        async def kill() -> None:
            await asyncio.to_thread(server.stop)

        async def restart() -> None:
            await asyncio.to_thread(client.restart)

        async with Consul(ConsulAccess(address=client.http, timeout=15)) as consul:
            yield Scene(consul, client.generation, kill, restart)


async def watched(consul: ConsulApi, index: int) -> QueryResult[tuple[ServiceEntry, ...]]:
    """The answer to a blocking query, which fails right after the agent's attempt to reconnect."""
    for _ in range(50):
        try:
            return await consul.health_service("triton", index=index, wait=0.2)
        except Unavailable:
            await asyncio.sleep(0.1)
    raise AssertionError("no answer")


async def test_without_servers_only_streamed_queries_are_answered(scene: Scene) -> None:
    consul, streams = scene.consul, scene.generation is Generation.STREAMING
    await consul.register_service(BODY)
    await consul.update_check("a:verdict", "passing", "fine")
    while not (known := await consul.health_service("triton")).value:
        await asyncio.sleep(0.05)
    first = await consul.health_service("triton", index=1, wait=5)
    assert first.value == known.value
    waiting = asyncio.create_task(consul.health_service("triton", index=known.index, wait=30))
    await asyncio.sleep(0.2)
    await scene.kill_servers()
    with pytest.raises(Unavailable):
        await waiting
    for refused in (
        consul.health_service("triton"),
        consul.health_service("triton", consistent=True),
        consul.health_service("never-asked-for", index=1, wait=0.2),
        consul.kv("x"),
        consul.kv_prefix("x"),
        consul.kv_prefix("x", index=5, wait=0.2),
        consul.transact(Set("x", b"1")),
        consul.session_create("s", ttl=10, lock_delay=0, service_checks=["a:verdict"]),
    ):
        with pytest.raises(Unavailable):
            await refused
    if streams:
        shown = await watched(consul, known.index)
        assert (shown.value, shown.index) == (known.value, known.index)
        assert (shown.streamed, shown.known_leader) == (True, False)
    else:
        with pytest.raises(Unavailable):
            await consul.health_service("triton", index=known.index, wait=0.2)


async def test_without_servers_the_agent_accepts_local_operations(scene: Scene) -> None:
    consul = scene.consul
    await consul.register_service(BODY)
    await scene.kill_servers()
    await consul.update_check("a:verdict", "warning", "busy")
    await consul.maintain_service("a", "stopping")
    own = await consul.agent_service("a")
    assert own is not None
    shown = {check.id: check.status for check in own.checks}
    assert shown == {"a:verdict": "warning", "_service_maintenance:a": "critical"}
    await consul.deregister_service("a")
    assert await consul.agent_service("a") is None


async def test_an_agent_that_starts_without_servers_returns_no_empty_list(scene: Scene) -> None:
    consul = scene.consul
    await consul.register_service(BODY)
    while not (known := await consul.health_service("triton")).value:
        await asyncio.sleep(0.05)
    await consul.health_service("triton", index=1, wait=5)
    await scene.kill_servers()
    await scene.restart_agent()
    for index in (1, known.index):
        with pytest.raises(Unavailable):
            await consul.health_service("triton", index=index, wait=0.2)
