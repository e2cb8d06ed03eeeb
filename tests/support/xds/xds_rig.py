"""A real Envoy, our control plane and two fake Tritons, in one event loop."""

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from sidecar.local.planning.ports import reserve
from sidecar.traffic.policy import TrafficPolicy
from sidecar.v1 import control_plane_pb2, control_plane_pb2_grpc
from sidecar.xds.config.edge import Edge
from tests.support.xds.control_plane import SERVICE, UNHURRIED, ControlPlane
from tests.support.xds.envoy_process import Envoy
from tests.support.xds.fake_tritons import FakeTriton
from tests.support.xds.grpc_clients import Client
from tests.support.xds.waiting import eventually


class Rig:
    """Envoy, a control plane and two fake Tritons, `a` and `b`; `control_plane` may be replaced."""

    a: FakeTriton
    b: FakeTriton
    control_plane: ControlPlane
    second: ControlPlane
    xds_port: int
    envoy: Envoy
    client: Client
    stack: AsyncExitStack

    def __init__(self, folder: Path, api_type: str, quarantine: float) -> None:
        self.edge = Edge(listen_host="127.0.0.1", listen_port=0, quarantine=quarantine)
        self.folder = folder
        self.api_type = api_type

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        api_type: str,
        workers: int = 2,
        planes: int = 1,
        quarantine: float = Edge().quarantine,
    ) -> "AsyncGenerator[Rig]":
        """Run a rig during the context, with `a` as primary.

        With two planes, the other one is `second`.
        """
        folder = Path(tempfile.mkdtemp(prefix="xds-"))
        rig = cls(folder, api_type, quarantine)
        async with AsyncExitStack() as stack:
            rig.stack = stack
            stack.callback(shutil.rmtree, folder)
            rig.a = await FakeTriton("a").start()
            stack.push_async_callback(rig.a.stop)
            rig.b = await FakeTriton("b").start()
            stack.push_async_callback(rig.b.stop)
            rig.control_plane = ControlPlane(rig.edge, first=True)
            [rig.xds_port] = stack.enter_context(reserve(1))  # also for its replacements
            await rig.control_plane.start(rig.xds_port)
            stack.push_async_callback(lambda: rig.control_plane.stop())
            rig.both(leader="a")
            other = 0
            if planes > 1:
                rig.second = ControlPlane(rig.edge)
                other = await rig.second.start()
                stack.push_async_callback(rig.second.stop)
                rig.second.catalog.set(rig.control_plane.catalog.value)
            rig.envoy = await Envoy.start(folder, rig.xds_port, api_type, workers, other)
            stack.push_async_callback(rig.envoy.stop)
            await rig.envoy.listening()
            rig.client = Client(rig.envoy.port)
            stack.push_async_callback(rig.client.close)
            await eventually(rig.reachable, "both are healthy")
            yield rig

    def both(self, leader: str | None, epoch: int = 1, policy: TrafficPolicy = UNHURRIED) -> None:
        """Publish both instances as healthy."""
        instances = self.a.instance(), self.b.instance()
        self.control_plane.publish(*instances, leader=leader, epoch=epoch, policy=policy)

    @asynccontextmanager
    async def client_of(self, authority: str) -> "AsyncGenerator[Client]":
        """A client whose requests have this authority."""
        client = Client(self.envoy.port, authority)
        try:
            yield client
        finally:
            await client.close()

    async def join(self, *names: str) -> list[FakeTriton]:
        """Start more Tritons, which are stopped with the rig."""
        joined = [await FakeTriton(name).start() for name in names]
        for triton in joined:
            self.stack.push_async_callback(triton.stop)
        return joined

    async def reachable(self, count: int = 2, cluster: str = SERVICE) -> bool:
        """Whether `count` hosts pass Envoy's own health checks.

        In each cluster with this observability name, because they share a gauge.
        """
        found = json.loads(await self.envoy.get("/clusters?format=json"))["cluster_statuses"]
        named = [each for each in found if each["observability_name"] == cluster]
        healthy = [
            sum(host["health_status"] == {"eds_health_status": "HEALTHY"} for host in hosts)
            for hosts in (each.get("host_statuses", []) for each in named)
        ]
        return bool(healthy) and set(healthy) == {count}

    async def settled(self, hosts: int = 2, cluster: str = SERVICE) -> None:
        """Wait until Envoy has acknowledged everything and `hosts` hosts pass its own checks."""

        async def done() -> bool:
            warming = await self.envoy.stat("cluster_manager.warming_clusters")
            acknowledged = not self.control_plane.busy
            return not warming and acknowledged and await self.reachable(hosts, cluster)

        await eventually(done, "Envoy has settled")

    @asynccontextmanager
    async def drain_of(self, instance: str) -> AsyncGenerator[Callable[[], Any]]:
        """Watch a drain; gives a function that returns the newest status."""
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.xds_port}")
        stub = control_plane_pb2_grpc.ControlPlaneServiceStub(channel)  # type: ignore[no-untyped-call]
        newest = control_plane_pb2.WatchDrainResponse()

        async def follow() -> None:
            nonlocal newest
            request = control_plane_pb2.WatchDrainRequest(service=SERVICE, instance=instance)
            async for status in stub.WatchDrain(request):
                newest = status

        task = asyncio.create_task(follow())
        try:
            yield lambda: newest
        finally:
            task.cancel()
            await channel.close(None)
