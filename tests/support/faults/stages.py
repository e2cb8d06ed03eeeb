"""Faults that only tests cause, besides those of drills: a cut port, a queue, edited settings."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sidecar.drill.injections.load import crowd
from sidecar.drill.scenario import Injection
from sidecar.drill.stage.http import request
from sidecar.drill.stage.mesh import MeshStage
from sidecar.drill.stage.waiting import until
from sidecar.local.meshfile import write_whole
from tests.support.mesh.mesh import newest_load
from tests.support.tcp_proxy import ProxiedMesh, Proxy


@asynccontextmanager
async def cut(mesh: MeshStage, victim: str) -> AsyncIterator[None]:
    """The gRPC port refuses connections while HTTP answers."""
    proxy = _proxy(mesh, victim)
    proxy.cut()
    try:
        await request("GET", f"http://{mesh.instance(victim).triton.http}/v2/health/ready")
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


def queued(clients: int) -> Injection[MeshStage]:
    """So many further clients, until each has had more than two answers on average."""

    @asynccontextmanager
    async def stage(mesh: MeshStage, victim: str) -> AsyncIterator[None]:
        async with crowd(clients)(mesh, victim):
            asking = newest_load(mesh)
            yield
            await until(lambda: len(asking.samples) > 2 * clients, "answers for the crowd")

    return stage


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
