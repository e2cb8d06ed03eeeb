"""A mesh on a Consul that streams: what is done to it comes out as on one that does not."""

import asyncio
import signal
import time

import pytest

from sidecar.local.load import UNARY
from tests.integration import test_mesh_cold as cold
from tests.integration.mesh import LiveMesh, unharmed
from tests.integration.mesh_outside import ROOT, http, metric, sidecar, until
from tests.soak import soak

pytestmark = pytest.mark.integration

ENVIRONMENT = {"CONSUL_BIN": str(ROOT / "tests" / "streaming" / "consul")}
MESH = cold.MESH


# A crash, the promotion of a cold standby, and a switchover: `make test` has them on what is found.


@soak
async def test_a_hot_standby_is_preferred(mesh: LiveMesh) -> None:
    await cold.test_a_hot_standby_is_preferred(mesh)


@soak
async def test_with_nobody_else_it_serves(mesh: LiveMesh) -> None:
    await cold.test_with_nobody_else_it_loads_proves_itself_and_serves(mesh)


@soak
async def test_without_the_role_it_unloads(mesh: LiveMesh) -> None:
    await cold.test_without_the_role_it_finishes_its_work_and_unloads(mesh)


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
        await mesh.well()
        await scene.flows()
    unharmed(scene.load)
