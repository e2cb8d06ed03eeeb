"""Reports of a real Envoy and our control plane about failed requests and the primary."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc
import grpc.aio
import pytest

from sidecar.control_planes import rpc
from sidecar.control_planes.rpc import Agreement, Failures
from sidecar.control_planes.watch import PlaneDirectory
from sidecar.runtime.clock import SystemClock
from sidecar.xds.catalog.catalog import Health
from tests.support.consul_model import FakeConsul
from tests.support.xds.control_plane import SERVICE, ControlPlane
from tests.support.xds.grpc_clients import Load
from tests.support.xds.waiting import PATIENCE, eventually
from tests.support.xds.xds_rig import Rig

pytestmark = pytest.mark.integration
PLANE = "planes"


class Scene:
    """A rig whose control plane reads Envoy's counters and is registered in Consul."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.consul = FakeConsul()
        self._clock = SystemClock()
        self._began = 0.0
        self.warnings: list[str] = []

    async def start(self) -> None:
        """Replace the rig's control plane; Envoy reconnects to the new one."""
        await self.rig.control_plane.stop()
        self.rig.control_plane = ControlPlane(self.rig.edge, self.rig.envoy.admin, first=True)
        await self.rig.control_plane.start(self.rig.xds_port)
        self.rig.both(leader="a")
        place = {"Address": "127.0.0.1", "Port": self.rig.xds_port}
        await self.consul.register_service({"ID": "plane", "Name": PLANE, **place})
        await eventually(lambda: self.failures_reported(0.0), "counting has begun")
        self._began = self._clock.now()

    async def failures_reported(self, seconds: float) -> Failures | None:
        """The control planes' report on the last `seconds`; None if it is unknown."""
        register = PlaneDirectory(self.consul, PLANE, SERVICE)
        return await rpc.failures(register, SERVICE, seconds)

    async def total(self) -> Counter[str]:
        """Requests and failures since the start."""
        report = await self.failures_reported(self._clock.now() - self._began)
        assert report is not None
        assert (report.counted, report.unmeasured, report.unknown) == (1, 0, 0)
        return Counter(requests=report.requests, failures=report.failures)

    async def cost(self, *done: Awaitable[object]) -> tuple[int, int]:
        """Requests and failures while `done` is awaited."""
        before = await self.total()
        for each in done:
            await each
        after = await self.total()
        return after["requests"] - before["requests"], after["failures"] - before["failures"]

    async def acknowledged(self, instance: str, epoch: int) -> Agreement:
        """Wait until all Envoys prefer the instance."""
        register = PlaneDirectory(self.consul, PLANE, SERVICE)
        async with asyncio.timeout(PATIENCE):
            return await rpc.primary_acknowledged(
                register, SERVICE, instance, epoch, self._clock, self.warnings.append
            )


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with Rig.running("DELTA_GRPC") as rig:
        made = Scene(rig)
        await made.start()
        yield made


async def test_each_request_counts_once_with_its_result(scene: Scene) -> None:
    rig = scene.rig
    assert await scene.cost() == (0, 0)
    assert await scene.cost(rig.client.answered_by(), rig.client.answered_by()) == (2, 0)

    rig.a.die_on_request = True
    assert await scene.cost(rig.client.answered_by()) == (1, 0)  # retried
    assert not rig.a.die_on_request
    await eventually(rig.reachable, "a is back")

    rig.a.gate.set()
    assert await scene.cost(_stream(rig)) == (1, 0)
    # A status of the server, and below one of Envoy, which has no host.
    rig.a.fails = {b"x": grpc.StatusCode.INVALID_ARGUMENT}
    assert await scene.cost(_fails(rig.client.infer, "INVALID_ARGUMENT")) == (1, 1)
    # A denied method does not count as a request to the service.
    assert await scene.cost(_fails(rig.client.unload, "PERMISSION_DENIED")) == (0, 0)
    rig.control_plane.publish()
    await eventually(lambda: _no_instance(rig), "no instance is left")
    assert await scene.cost(_fails(rig.client.infer, "UNAVAILABLE")) == (1, 1)


async def test_a_cut_stream_counts_as_failed_and_a_cancelled_one_does_not(
    scene: Scene,
) -> None:
    assert await scene.cost(_cut(scene.rig)) == (1, 1)
    await eventually(scene.rig.reachable, "a is back")
    assert await scene.cost(_cancel(scene.rig)) == (0, 0)


async def test_a_move_of_the_role_is_acknowledged_and_fails_no_request(scene: Scene) -> None:
    load = Load(scene.rig.client, clients=8)
    await load.more(50, by="a")
    scene.rig.both(leader="b", epoch=5)
    assert await scene.acknowledged("b", 5) == Agreement(planes=1, envoys=1)
    await load.more(50, by="b")
    await load.stop()
    counted = await scene.total()
    assert counted == Counter(requests=load.answers.total(), failures=0)
    assert load.failures == []


async def test_an_unusable_primary_is_never_acknowledged(scene: Scene) -> None:
    a, b = scene.rig.a.instance(), scene.rig.b.instance(health=Health.CRITICAL)
    scene.rig.control_plane.publish(a, b, leader="b", epoch=5)
    waiting = asyncio.create_task(scene.acknowledged("b", 5))
    done, _ = await asyncio.wait([waiting], timeout=2.0)
    assert not done
    scene.rig.both(leader="b", epoch=5)
    assert await waiting == Agreement(planes=1, envoys=1)


async def test_an_older_epoch_does_not_count_as_an_acknowledgement(scene: Scene) -> None:
    scene.rig.both(leader="b", epoch=5)
    await scene.acknowledged("b", 5)
    waiting = asyncio.create_task(scene.acknowledged("b", 6))
    done, _ = await asyncio.wait([waiting], timeout=1.0)
    assert not done
    scene.rig.both(leader="b", epoch=7)  # the endpoints are the same, so nothing is sent
    assert await waiting == Agreement(planes=1, envoys=1)


async def test_a_restarted_control_plane_is_queried_again(scene: Scene) -> None:
    rig = scene.rig
    rig.both(leader="b", epoch=5)
    await scene.acknowledged("b", 5)
    waiting = asyncio.create_task(scene.acknowledged("a", 6))
    await rig.control_plane.stop()
    rig.control_plane = ControlPlane(rig.edge)
    await rig.control_plane.start(rig.xds_port)
    rig.both(leader="a", epoch=6)
    assert await waiting == Agreement(planes=1, envoys=1)
    # Without access to Envoy's counters the failures are unknown.
    assert await scene.failures_reported(0.0) is None


async def test_without_control_planes_a_primary_is_acknowledged_at_once(scene: Scene) -> None:
    await scene.consul.deregister_service("plane")
    await scene.consul.register_service(
        {"ID": "a", "Name": SERVICE, "Address": "127.0.0.1", "Port": 1}
    )
    assert await scene.acknowledged("b", 99) == Agreement()
    assert await scene.failures_reported(0.0) is None


async def test_the_failures_of_an_unreachable_control_plane_are_unknown(scene: Scene) -> None:
    gone = {"ID": "gone", "Name": PLANE, "Address": "127.0.0.1", "Port": 1}
    await scene.consul.register_service(gone)
    report = await scene.failures_reported(0.0)
    assert report is not None
    assert (report.counted, report.unknown) == (1, 1)
    # No control plane that answers has counted for an hour.
    assert await scene.failures_reported(3600.0) == Failures(
        0, 0, counted=0, unmeasured=1, unknown=1
    )


async def test_without_envoys_statistics_failures_are_unknown(scene: Scene) -> None:
    await scene.rig.envoy.stop()
    assert await scene.failures_reported(0.0) is None


async def _stream(rig: Rig) -> None:
    call = rig.client.stream(timeout=PATIENCE)
    await call.write(b"2")
    assert [await call.read(), await call.read()] == [b"a:0", b"a:1"]
    await call.done_writing()
    assert await call.code() == grpc.StatusCode.OK


async def _cut(rig: Rig) -> None:
    call = rig.client.stream(timeout=PATIENCE)
    await call.write(b"2")
    assert await call.read() == b"a:0"
    rig.a.wire.drop()
    assert await call.code() != grpc.StatusCode.OK


async def _cancel(rig: Rig) -> None:
    call = rig.client.stream(timeout=PATIENCE)
    await call.write(b"2")
    await call.read()
    call.cancel()
    stat = "http.triton.downstream_rq_active"
    await eventually(lambda: _is_zero(rig, stat), "Envoy has no request in flight")


async def _is_zero(rig: Rig, stat: str) -> bool:
    return await rig.envoy.stat(stat) == 0


async def _no_instance(rig: Rig) -> bool:
    code = await rig.client.infer(b"x", timeout=PATIENCE).code()
    return bool(code == grpc.StatusCode.UNAVAILABLE)


async def _fails(method: Any, status: str) -> None:
    assert (await method(b"x", timeout=PATIENCE).code()).name == status
