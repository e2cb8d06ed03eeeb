"""Consul's gRPC check of a sidecar, and when it becomes critical."""

import asyncio
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar.consul.access import ConsulAccess
from sidecar.consul.api import ConsulApi, QueryResult, ServiceEntry
from sidecar.consul.client import Consul
from sidecar.registry.registration import InstanceInfo, InstanceMeta, registration
from tests.support.consul_agent import ConsulAgent

PATIENCE = 60.0
STATUS = health_pb2.HealthCheckResponse
INSTANCE = InstanceInfo("polled-0", "polled", "127.0.0.1", 9, 1, (), (), (), "127.0.0.1:0", "live")


class Sidecar(health_pb2_grpc.HealthServicer):
    """Fails every other poll while `stumbles`, and counts the failed ones."""

    stumbles = missing = False
    missed = 0

    async def Check(self, request: Any, context: Any) -> Any:
        """Called by Consul's check."""
        self.missing = self.stumbles and not self.missing
        if self.missing:
            self.missed += 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "stood still")
        return STATUS(status=STATUS.SERVING)


async def status(consul: ConsulApi) -> tuple[str, int]:
    """The polled check's status, and the index of the last change of the service's checks."""
    found: QueryResult[tuple[ServiceEntry, ...]] = await consul.health_service(INSTANCE.service)
    [check] = [c for e in found.value for c in e.checks if c.id == INSTANCE.sidecar_check]
    return check.status, found.index


async def until(consul: ConsulApi, wanted: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while (await status(consul))[0] != wanted:
            await asyncio.sleep(0.1)


async def test_one_missed_poll_is_not_critical(consul_agent: ConsulAgent) -> None:
    sidecar, server = Sidecar(), grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(sidecar, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    instance = replace(INSTANCE, sidecar=f"127.0.0.1:{port}")
    async with Consul(ConsulAccess(address=consul_agent.http)) as consul:
        try:
            await consul.register_service(registration(instance, InstanceMeta()))
            await until(consul, "passing")
            before = await status(consul)
            sidecar.stumbles = True
            async with asyncio.timeout(PATIENCE):
                while sidecar.missed < 3:
                    await asyncio.sleep(0.1)
                    assert await status(consul) == before
            await server.stop(None)
            await until(consul, "critical")
        finally:
            await server.stop(None)
            await consul.deregister_service(instance.id)
