"""A mesh on a Consul that streams. `make test-streaming` has all other meshes on one as well."""

import asyncio
import signal
import time

import pytest

from sidecar.local.load import UNARY
from tests.support.mesh.mesh import LiveMesh, unharmed
from tests.support.mesh.mesh_outside import ROOT, http, metric, sidecar, until

pytestmark = pytest.mark.integration

ENVIRONMENT = {"CONSUL_BIN": str(ROOT / "tests" / "support" / "streaming" / "consul")}


async def test_servers_are_gone_while_the_agent_goes_on_streaming(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene:
        who, addresses = scene.primary, mesh.now
        with mesh.unsupervised():
            # Consul's process is that of the servers; the agent is another one.
            killed, began = mesh.signal("consul", signal.SIGKILL), time.monotonic()
            url = f"http://{addresses.consul.http}/v1/health/service/triton?index=1&wait=1s"
            assert who in await http("GET", url)
            await mesh.repository(who, UNARY, "unload")
            await mesh.avoided(who)
            await scene.flows()
            gone = time.monotonic() - began
            age = await metric(addresses.xds.metrics, "triton_sidecar_xds_catalog_age_seconds")
            assert age > gone
            told = await asyncio.to_thread(sidecar, "local", "status", f"--mesh={mesh.folder}")
            assert " old; " in told.stdout
            await mesh.repository(who, UNARY, "load")

            async def usable() -> bool:
                return (await mesh.hosts())[who].usable

            await until(usable, f"Envoy takes {who} back")
        await until(lambda: mesh.running("consul") not in (None, killed), "a new Consul")
        await mesh.steady()
        await scene.flows()
    unharmed(scene.load)
