"""Faults that only tests cause, besides those of drills: a cut port, edited settings."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sidecar.drill.scenario import Injection
from sidecar.drill.stage.mesh import MeshStage
from sidecar.drill.stage.waiting import until
from sidecar.local.meshfile import write_whole
from tests.support.mesh.mesh_outside import http
from tests.support.tcp_proxy import ProxiedMesh, Proxy


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


def settings(before: str, after: str, *, rejected: bool = False) -> Injection[MeshStage]:
    """The sidecar's settings change, and it is told to reload them.

    If they must be `rejected`, the fault is not there before the sidecar has logged that.
    """

    @asynccontextmanager
    async def stage(mesh: MeshStage, victim: str) -> AsyncIterator[None]:
        path, part = mesh.folder / victim / "sidecar.toml", mesh.sidecar_of(victim)
        right, since = path.read_text(), mesh.written(part)
        assert before in right
        write_whole(path, right.replace(before, after, 1))  # the table of `faulty` is the first
        mesh.signal(part, signal.SIGHUP)
        try:
            if rejected:
                await until(lambda: _rejects(mesh, part, since), f"{part} rejects its settings")
            yield
        finally:
            write_whole(path, right)
            mesh.signal(part, signal.SIGHUP)

    return stage


def _rejects(mesh: MeshStage, part: str, since: int) -> bool:
    return any(event["event"] == "reload_failed" for event in mesh.events(part, since))
