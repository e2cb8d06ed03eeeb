"""A mesh on two Consul nodes, and what operators do to a node."""

import json
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sidecar.local import consul_view
from sidecar.local.meshfile import write_whole
from sidecar.local.planning.plan import SERVICE
from tests.support.consul_agent import ConsulAgent
from tests.support.mesh.mesh import LiveMesh
from tests.support.mesh.mesh_outside import until

CHECK = "disk"


async def maintain_node(mesh: LiveMesh, enable: bool) -> None:
    """What `consul maint` does on the node of the mesh's own agent."""
    flag = str(enable).lower()
    await mesh.consul("PUT", f"agent/maintenance?enable={flag}&reason=kernel")


async def fail_node(mesh: LiveMesh, enable: bool) -> None:
    """Give the node a failing check that only operators know about, or remove it."""
    if enable:
        await mesh.consul("PUT", "agent/check/register", {"ID": CHECK, "Name": CHECK, "TTL": "1h"})
        await mesh.consul("PUT", f"agent/check/fail/{CHECK}?note=full")
    else:
        await mesh.consul("PUT", f"agent/check/deregister/{CHECK}")


@asynccontextmanager
async def apart(mesh: LiveMesh, instance: str) -> AsyncIterator[None]:
    """Run an instance on a separate node with its own agent, as if on another machine."""
    consul = json.loads((mesh.folder / "consul.json").read_text())
    settings = mesh.folder / instance / "sidecar.toml"
    before = settings.read_text()
    lan = f"127.0.0.1:{consul['ports']['serf_lan']}"
    folder = Path(tempfile.mkdtemp(prefix="node-", dir=mesh.folder))
    with ConsulAgent.running(folder, of=lan, node=folder.name) as agent:
        await _moved(mesh, instance, before.replace(mesh.now.consul.http, agent.http))
        try:
            yield
        finally:
            await _moved(mesh, instance, before)


async def _moved(mesh: LiveMesh, instance: str, settings: str) -> None:
    """Restart its sidecar with these settings, and wait until it is registered with them."""
    write_whole(mesh.folder / instance / "sidecar.toml", settings)
    before, part = await _nodes(mesh, instance), mesh.sidecar_of(instance)
    pid = mesh.signal(part, signal.SIGTERM)
    await until(lambda: mesh.running(part) not in (None, pid), f"another {part}")

    async def elsewhere() -> bool:
        return bool(await _nodes(mesh, instance) - before)

    await until(elsewhere, f"{instance} on another node")


async def _nodes(mesh: LiveMesh, instance: str) -> set[str]:
    async with consul_view.connect(mesh.now) as consul:
        entries = (await consul.health_service(SERVICE)).value
    return {entry.node for entry in entries if entry.id == instance}
