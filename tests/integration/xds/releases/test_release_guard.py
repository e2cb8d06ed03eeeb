"""An unhealthy release on a real Envoy, and the guard that rolls it back."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest
import structlog

from sidecar.consul.api import Set
from sidecar.runtime.latest import Latest
from sidecar.traffic.document import dump, parse, policy_key
from sidecar.traffic.policy import Guard, Mode, OutlierDetection, Release, TrafficPolicy
from sidecar.xds.catalog.catalog import Catalog, ServiceCatalog
from sidecar.xds.config.endpoints import release_cluster
from sidecar.xds.envoys.envoy_stats import EnvoyCounters
from sidecar.xds.releases.release_watch import ReleaseWatch
from tests.support.consul_model import FakeConsul
from tests.support.soak import pause
from tests.support.xds.control_plane import SERVICE, UNHURRIED
from tests.support.xds.fake_tritons import FakeTriton
from tests.support.xds.waiting import PATIENCE, eventually
from tests.support.xds.xds_rig import Rig

pytestmark = pytest.mark.integration

_CLIENTS = 8
_PAUSE = pause(_CLIENTS, every=0.005)
GUARD = Guard(max_error_percent=10.0, max_latency=3.0, min_requests=20)
RELEASE = Release(tag="v2", percent=50, guard=GUARD)
POLICY = TrafficPolicy(
    mode=Mode.ACTIVE_ACTIVE,
    release=RELEASE,
    # No ejection: an ejected release would get no requests, and so would never be rolled back.
    outlier_detection=OutlierDetection(consecutive_local_origin_failure=1_000_000),
    connection=UNHURRIED.connection,
    health_check=UNHURRIED.health_check,
)


class FaultyTriton(FakeTriton):
    """A Triton of the release, with a fault if `fault` names one."""

    fault = ""

    async def infer(self, request: bytes, context: Any) -> bytes:
        """Answer a request, with the fault if there is one."""
        if self.fault == "dies":
            self.wire.drop()
        if self.fault == "fails":
            await context.abort(grpc.StatusCode.INTERNAL, "CUDA error")
        if self.fault == "is slow":
            await asyncio.sleep(4.0)
        return await super().infer(request, context)


class Scene:
    """A rig whose service has a release on `c`, a guard, and a document in Consul."""

    def __init__(self, rig: Rig, released: FaultyTriton) -> None:
        self.rig = rig
        self.released = released
        self.consul = FakeConsul()
        self.in_force: Latest[Catalog | None] = Latest(None)
        clock, log = rig.control_plane.publication.clock, structlog.get_logger()
        self.counters = EnvoyCounters([rig.envoy.admin], (SERVICE,), clock, log)
        self.tripped: list[str] = []
        self.watch = ReleaseWatch(self.in_force, self.counters, self.consul, clock, self)
        self.answers: Counter[str] = Counter()
        self.turns: Counter[asyncio.Task[Any] | None] = Counter()

    async def run(self) -> None:
        """Run the loops of a control plane."""
        async with asyncio.TaskGroup() as tasks:
            for loop in (self.counters.run, self.watch.run, self._publish):
                tasks.create_task(loop())

    async def _publish(self) -> None:
        async for catalog in self.watch.published:
            if catalog:
                self.rig.control_plane.catalog.set(catalog)

    async def order(self) -> None:
        """Write the release to Consul and to the catalog."""
        await self.consul.transact(Set(policy_key(SERVICE), dump(POLICY).encode()))
        instances = (
            self.rig.a.instance(),
            self.rig.b.instance(),
            self.released.instance(tags=("v2",)),
        )
        self.in_force.set(Catalog((ServiceCatalog(SERVICE, instances, policy=POLICY),)))
        healthy = f"cluster.{release_cluster(SERVICE)}.membership_healthy"
        await eventually(lambda: self._is(healthy, 3), "Envoy knows the release")

    async def ask(self, streams: bool) -> None:
        """Send requests forever."""
        while True:
            self.answers[await (self._stream() if streams else self._unary())] += 1
            self.turns[asyncio.current_task()] += 1
            await asyncio.sleep(_PAUSE)

    async def more(self, count: int) -> Counter[str]:
        """The next `count` answers, without those to requests already in flight."""
        turns = Counter(self.turns)
        await eventually(lambda: (self.turns - turns).keys() == turns.keys(), "the last answers")
        before = Counter(self.answers)
        await eventually(lambda: self.answers.total() >= before.total() + count, "more answers")
        return self.answers - before

    async def _unary(self) -> str:
        try:
            return await self.rig.client.answered_by()
        except grpc.aio.AioRpcError as error:
            return error.code().name

    async def _stream(self) -> str:
        """A stream with one answer; it is cut if another stream drops their connection."""
        call = self.rig.client.stream(timeout=PATIENCE)
        try:
            await call.write(b"1")
            instance = (await call.read()).decode().partition(":")[0]
            if instance == "c" and self.released.fault == "cuts streams":
                self.released.wire.drop()
            await call.done_writing()
            await call.read()
        except (grpc.aio.AioRpcError, grpc.aio.InternalError):  # the latter from `done_writing`
            return "cut"
        return instance if await call.code() == grpc.StatusCode.OK else "cut"

    async def _is(self, stat: str, value: int) -> bool:
        return await self.rig.envoy.stat(stat) == value

    def guard_blind(self, service: str) -> None: ...

    def guard_tripped(self, service: str, why: str) -> None:
        self.tripped.append(why)

    def rollback_kept(self, service: str, why: str) -> None: ...

    def rollback_written(self, service: str, why: str) -> None: ...

    def rollback_unwritten(self, service: str, why: str) -> None: ...

    def rollback_ended(self, service: str) -> None: ...


@asynccontextmanager
async def under_load(streams: bool = False) -> AsyncIterator[Scene]:
    """A release under the load of 8 clients."""
    async with Rig.running("DELTA_GRPC") as rig:
        released = await FaultyTriton("c").start()
        scene = Scene(rig, released)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(scene.run())]
                await scene.order()
                tasks += [group.create_task(scene.ask(streams)) for _ in range(_CLIENTS)]
                await eventually(lambda: scene.answers["c"] >= 100, "the release gets requests")
                yield scene
                for task in tasks:
                    task.cancel()
        finally:
            await released.stop()


async def rolled_back(scene: Scene) -> str:
    """Wait for the rollback, in Envoy and in Consul; returns its reason."""
    await eventually(lambda: scene.tripped, "the guard")
    await eventually(lambda: _withdrawn(scene), "Envoy has no route to the release")
    assert (await scene.more(100)).keys() == {"a", "b"}
    await eventually(lambda: _written(scene), "it is in Consul")
    return scene.tripped[0]


async def _withdrawn(scene: Scene) -> bool:
    routes = await scene.rig.envoy.get("/config_dump?resource=dynamic_route_configs")
    return release_cluster(SERVICE) not in routes


async def _written(scene: Scene) -> bool:
    stored = parse(scene.consul.model.keys[policy_key(SERVICE)].value)
    rolled_back = replace(RELEASE, rolled_back=scene.tripped[0])
    return stored == replace(POLICY, release=rolled_back)


async def test_a_release_that_answers_with_errors_is_rolled_back() -> None:
    async with under_load() as scene:
        scene.released.fault = "fails"
        assert (await rolled_back(scene)).endswith(" %")
        assert scene.answers.keys() == {"a", "b", "c"}  # no client got an error


async def test_a_release_whose_failed_requests_others_answer_is_rolled_back() -> None:
    async with under_load() as scene:
        scene.released.fault = "dies"
        assert (await rolled_back(scene)).endswith(" %")
        assert scene.answers.keys() == {"a", "b", "c"}  # no client got an error


async def test_a_release_that_cuts_its_streams_is_rolled_back() -> None:
    async with under_load(streams=True) as scene:
        scene.released.fault = "cuts streams"
        assert (await rolled_back(scene)).endswith(" %")
        assert scene.answers.keys() == {"a", "b", "c", "cut"}


async def test_a_slow_release_is_rolled_back() -> None:
    async with under_load() as scene:
        scene.released.fault = "is slow"
        why = await rolled_back(scene)
        assert "99th percentile" in why
        assert why.endswith(" 3 s")
        assert scene.answers.keys() == {"a", "b", "c"}


async def test_a_healthy_release_is_not_rolled_back() -> None:
    async with under_load() as scene:
        judged = scene.counters.looks.value
        await eventually(lambda: scene.counters.looks.value >= judged + 12, "it was judged")
        clock = scene.rig.control_plane.publication.clock
        seen = scene.counters.released(SERVICE, clock.now() - 60.0, GUARD.window)
        assert seen.bad == 0
        assert min(seen.requests, seen.measured) >= GUARD.min_requests
        assert (await scene.more(100))["c"] > 0
        assert scene.tripped == []
