"""Faults that only tests cause, besides those of drills: a crowd, a cut port, edited settings."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sidecar.drill.scenario import Injection
from sidecar.drill.stage.mesh import MeshStage
from sidecar.local.meshfile import write_whole
from tests.support.faults.faulty_load import faulty_load
from tests.support.mesh.mesh_outside import http, until
from tests.support.tcp_proxy import ProxiedMesh, Proxy

QUEUED = 200  # clients that make a queue


@asynccontextmanager
async def queue(mesh: MeshStage, _: str) -> AsyncIterator[None]:
    """Many more clients, so that requests wait for a model that works well."""
    envoy, reference = mesh.now.envoy.grpc, mesh.now.instances[0].triton.grpc
    async with faulty_load(envoy, reference, unary=QUEUED, streams=0) as crowd:
        yield
        await until(lambda: len(crowd.unary.done) > 2 * QUEUED, "answers for a crowd")
    assert crowd.unary.failed == []
    assert crowd.unary.wrong == []


@asynccontextmanager
async def cut(mesh: MeshStage, victim: str) -> AsyncIterator[None]:
    """The gRPC port refuses connections while HTTP answers."""
    proxy = _proxy(mesh, victim)
    proxy.cut()
    try:
        await http("GET", f"http://{mesh.instance(victim).triton.http}/v2/health/ready")
        yield
    finally:
        await proxy.connect()


@asynccontextmanager
async def swallowed(mesh: MeshStage, victim: str) -> AsyncIterator[None]:
    """Connections are accepted, and nothing is ever answered."""
    proxy = _proxy(mesh, victim)
    proxy.swallow()
    try:
        yield
    finally:
        await proxy.connect()


def _proxy(mesh: MeshStage, instance: str) -> Proxy:
    assert isinstance(mesh, ProxiedMesh)
    return mesh.proxies[instance]


def settings(before: str, after: str) -> Injection[MeshStage]:
    """The sidecar's settings change, and it is told to reload them."""

    @asynccontextmanager
    async def stage(mesh: MeshStage, victim: str) -> AsyncIterator[None]:
        path = mesh.folder / victim / "sidecar.toml"
        right = path.read_text()
        assert before in right
        write_whole(path, right.replace(before, after, 1))  # the table of `faulty` is the first
        mesh.signal(mesh.sidecar_of(victim), signal.SIGHUP)
        try:
            yield
        finally:
            write_whole(path, right)
            mesh.signal(mesh.sidecar_of(victim), signal.SIGHUP)

    return stage
