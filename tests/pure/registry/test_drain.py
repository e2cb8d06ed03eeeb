"""A drain while control planes come, go, or are hidden, on a manual clock."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from sidecar.consul.api import QueryResult, ServiceEntry
from sidecar.control_planes import rpc, watch
from sidecar.control_planes.membership import GRACE
from sidecar.control_planes.rpc import Agreement
from sidecar.control_planes.watch import PlaneDirectory
from sidecar.registry.drain import wait_until_idle
from sidecar.runtime.errors import Unavailable
from sidecar.runtime.latest import Latest
from tests.support.consul_model import FakeConsul
from tests.support.virtual_clock import VirtualClock

PLANES, SERVICE = "planes", "triton"
LONG = 120.0  # seconds, longer than any intended wait


class Catalog(FakeConsul):
    """A Consul that may not answer, or hide some control planes."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.may_see = True
        self.hidden = frozenset[str]()
        self.leader = True
        self.filtered = False

    async def sees_all(self, name: str) -> bool:
        return self.may_see

    async def health_service(self, name: str, **rest: Any) -> QueryResult[tuple[ServiceEntry, ...]]:
        if self.away:
            raise Unavailable("Consul: no answer in time")
        answer = await super().health_service(name, **rest)
        shown = tuple(each for each in answer.value if each.id not in self.hidden)
        return replace(answer, value=shown, known_leader=self.leader, filtered=self.filtered)


class Plane:
    """A control plane, and what it replies while it runs."""

    def __init__(self) -> None:
        self.status: Latest[Any] = Latest(None)
        self.there = True

    def reports(self, in_flight: int, *nodes: str) -> None:
        """All its Envoys have reported, with so many requests in flight."""
        count = len(nodes) or 1
        self.status.set(
            SimpleNamespace(
                envoys=count,
                envoys_acknowledged=count,
                envoys_reported=count,
                requests_in_flight=in_flight,
                nodes=nodes,
            )
        )

    def prefers(self, instance: str) -> None:
        """Its one Envoy follows this primary."""
        self.status.set(
            SimpleNamespace(
                followed=True, instance=instance, epoch=5, envoys=1, envoys_acknowledged=1
            )
        )

    def leave(self) -> None:
        """End all streams, and answer no more."""
        self.there = False
        self.status.set(None)

    async def WatchDrain(self, request: Any) -> AsyncIterator[Any]:
        if not self.there:
            raise grpc.RpcError
        async for status in self.status:
            if not self.there:
                raise grpc.RpcError
            if status is not None:
                yield status

    WatchPrimary = WatchDrain


class Scene:
    """An instance that drains, and the control planes that it queries."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.consul = Catalog()
        self.planes: dict[str, Plane] = {}
        self.failures: list[str] = []
        self.register = PlaneDirectory(self.consul, PLANES, SERVICE)

    async def join(self, name: str) -> Plane:
        """A control plane registers."""
        self.planes[f"127.0.0.1:{len(self.planes)}"] = plane = Plane()
        entry = {"ID": name, "Name": PLANES, "Address": "127.0.0.1"}
        await self.consul.register_service(entry | {"Port": len(self.planes) - 1})
        return plane

    async def pass_time(self, seconds: float = LONG) -> None:
        await self.clock.advance(seconds)

    @asynccontextmanager
    async def draining(self) -> AsyncIterator["asyncio.Task[None]"]:
        """The wait for the Envoys, which has begun."""
        wait = wait_until_idle(self.register, SERVICE, "a", self.clock, self.failures.append)
        async with running(wait) as task:
            await self.pass_time(0.0)
            yield task


@asynccontextmanager
async def running(work: Any) -> AsyncIterator["asyncio.Task[Any]"]:
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    made = Scene()

    @asynccontextmanager
    async def stub_at(address: str) -> AsyncIterator[Plane]:
        yield made.planes[address]

    monkeypatch.setattr(watch, "stub_at", stub_at)
    own = {"ID": "a", "Name": SERVICE, "Address": "127.0.0.1", "Port": 1}
    await made.consul.register_service(own)
    return made


async def test_if_it_is_proven_that_no_control_plane_is_registered_there_is_no_wait(
    scene: Scene,
) -> None:
    async with scene.draining() as drain:
        assert drain.done()
    assert scene.failures == []


async def test_a_list_hidden_by_acls_proves_nothing(scene: Scene) -> None:
    plane = await scene.join("one")
    plane.reports(0, "envoy")
    scene.consul.may_see, scene.consul.hidden = False, frozenset({"one"})
    async with scene.draining() as drain:
        await scene.pass_time()
        assert not drain.done()
        [failure] = scene.failures
        assert "service:read" in failure
        assert "node:read" in failure
        assert repr(PLANES) in failure
        scene.consul.may_see, scene.consul.hidden = True, frozenset()
        await scene.pass_time(1.0)
        assert drain.done()


async def test_a_catalog_without_the_instance_itself_proves_nothing(scene: Scene) -> None:
    await scene.consul.deregister_service("a")
    async with scene.draining() as drain:
        await scene.pass_time()
        assert not drain.done()
        assert [SERVICE in failure for failure in scene.failures] == [True]


async def test_a_partially_hidden_list_proves_nothing(scene: Scene) -> None:
    (await scene.join("one")).reports(0, "envoy-1")
    other = await scene.join("two")
    scene.consul.filtered, scene.consul.hidden = True, frozenset({"two"})
    async with scene.draining() as drain:
        await scene.pass_time()
        assert not drain.done()
        assert len(scene.failures) == 1
        scene.consul.filtered, scene.consul.hidden = False, frozenset()
        await scene.pass_time()
        assert not drain.done()
        other.reports(0, "envoy-2")
        await scene.pass_time(0.0)
        assert drain.done()


async def test_servers_without_a_leader_prove_nothing(scene: Scene) -> None:
    scene.consul.leader = False
    async with scene.draining() as drain:
        await scene.pass_time()
        assert not drain.done()
        scene.consul.leader = True
        await scene.pass_time(1.0)
        assert drain.done()


async def test_a_control_plane_that_registers_during_a_drain_is_queried(scene: Scene) -> None:
    first = await scene.join("one")
    first.reports(1, "envoy-1")
    async with scene.draining() as drain:
        second = await scene.join("two")
        second.reports(1, "envoy-2")
        await scene.pass_time(1.0)
        first.reports(0, "envoy-1")
        await scene.pass_time()
        assert not drain.done()
        second.reports(0, "envoy-2")
        await scene.pass_time(0.0)
        assert drain.done()


async def test_a_deregistered_control_plane_is_not_waited_for(scene: Scene) -> None:
    (await scene.join("one")).reports(0, "envoy-1")
    (await scene.join("ghost")).leave()
    async with scene.draining() as drain:
        await scene.pass_time()
        assert not drain.done()
        await scene.consul.deregister_service("ghost")
        await scene.pass_time(GRACE - 1.0)
        assert not drain.done()  # a restarted agent may have lost it for a moment
        await scene.pass_time(3.0)
        assert drain.done()


async def test_an_unlisted_control_plane_that_still_reports_is_waited_for(scene: Scene) -> None:
    plane = await scene.join("one")
    plane.reports(3, "envoy-1")
    async with scene.draining() as drain:
        await scene.consul.deregister_service("one")
        await scene.pass_time()
        assert not drain.done()
        plane.reports(0, "envoy-1")
        await scene.pass_time(0.0)
        assert drain.done()


async def test_the_envoys_of_a_departed_control_plane_are_looked_for_at_the_others(
    scene: Scene,
) -> None:
    first, second = await scene.join("one"), await scene.join("two")
    first.reports(3, "envoy-1")
    second.reports(0, "envoy-2")
    async with scene.draining() as drain:
        first.leave()
        await scene.consul.deregister_service("one")
        await scene.pass_time()
        assert not drain.done()  # the outcome of the three requests is unknown
        second.reports(2, "envoy-1", "envoy-2")
        await scene.pass_time()
        assert not drain.done()
        second.reports(0, "envoy-1", "envoy-2")
        await scene.pass_time(0.0)
        assert drain.done()


async def test_a_departed_control_plane_that_named_no_envoys_leaves_its_requests_unknown(
    scene: Scene,
) -> None:
    first, second = await scene.join("one"), await scene.join("two")
    first.reports(3)  # an older version does not
    second.reports(0, "envoy-1")
    async with scene.draining() as drain:
        first.leave()
        await scene.consul.deregister_service("one")
        await scene.pass_time()
        assert not drain.done()


async def test_a_control_plane_that_departed_with_nothing_in_flight_is_not_waited_for(
    scene: Scene,
) -> None:
    first, second = await scene.join("one"), await scene.join("two")
    first.reports(0, "envoy-1")
    second.reports(1, "envoy-2")
    async with scene.draining() as drain:
        first.leave()
        await scene.consul.deregister_service("one")
        await scene.pass_time()
        second.reports(0, "envoy-2")
        await scene.pass_time(0.0)
        assert drain.done()


async def test_a_list_that_is_empty_because_the_token_was_revoked_ends_no_wait(
    scene: Scene,
) -> None:
    (await scene.join("one")).leave()
    async with scene.draining() as drain:
        scene.consul.may_see, scene.consul.hidden = False, frozenset({"one"})
        await scene.pass_time()
        assert not drain.done()
        assert len(scene.failures) == 1


async def test_while_consul_does_not_answer_it_waits(scene: Scene) -> None:
    plane = await scene.join("one")
    plane.reports(1, "envoy-1")
    async with scene.draining() as drain:
        scene.consul.away = True
        await scene.pass_time(2.0)
        plane.reports(0, "envoy-1")
        await scene.pass_time()
        assert not drain.done()
        scene.consul.away = False
        await scene.pass_time(1.0)
        assert drain.done()


async def test_a_switchover_queries_new_control_planes_and_trusts_no_empty_list(
    scene: Scene,
) -> None:
    def follow() -> Any:
        report = scene.failures.append
        return rpc.primary_acknowledged(scene.register, SERVICE, "b", 5, scene.clock, report)

    scene.consul.may_see = False
    async with running(follow()) as following:
        await scene.pass_time()
        assert not following.done()
        assert len(scene.failures) == 1
        plane = await scene.join("one")
        scene.consul.may_see = True
        await scene.pass_time()
        assert not following.done()
        plane.prefers("b")
        await scene.pass_time(0.0)
        assert following.result() == Agreement(planes=1, envoys=1)
