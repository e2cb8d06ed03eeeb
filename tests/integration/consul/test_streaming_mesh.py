"""A mesh on a Consul that streams. `make test-streaming` also runs all other meshes on one."""

import asyncio
import signal
import time

import pytest

from sidecar.local.load import UNARY
from tests.support.mesh.mesh import LiveMesh, unharmed
from tests.support.mesh.mesh_outside import ROOT, http, metric, sidecar, until

pytestmark = pytest.mark.integration

ENVIRONMENT = {"CONSUL_BIN": str(ROOT / "tests" / "support" / "streaming" / "consul")}


async def test_no_request_fails_while_the_agent_streams_without_its_servers(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene:
        primary, addresses = scene.primary, mesh.now
        with mesh.unsupervised():
            # The mesh's `consul` is the server; the agent is another process.
            killed, began = mesh.signal("consul", signal.SIGKILL), time.monotonic()
            url = f"http://{addresses.consul.http}/v1/health/service/triton?index=1&wait=1s"
            assert primary in await http("GET", url)
            await mesh.repository(primary, UNARY, "unload")
            await mesh.avoided(primary)
            await scene.flows()
            outage = time.monotonic() - began
            age = await metric(addresses.xds.metrics, "triton_sidecar_xds_catalog_age_seconds")
            assert age > outage
            status = await asyncio.to_thread(sidecar, "local", "status", f"--mesh={mesh.folder}")
            assert " old; " in status.stdout
            await mesh.repository(primary, UNARY, "load")

            async def usable() -> bool:
                return (await mesh.hosts())[primary].usable

            await until(usable, f"Envoy takes {primary} back")
        await until(lambda: mesh.running("consul") not in (None, killed), "a new Consul")
        await mesh.steady()
        await scene.flows()
    unharmed(scene.load)
