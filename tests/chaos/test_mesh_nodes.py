"""Two Consul nodes; an operator takes the primary's node out of service."""

from collections.abc import Awaitable, Callable

import pytest

from tests.support.mesh.mesh import LiveMesh, unharmed
from tests.support.mesh.mesh_nodes import apart, fail_node, maintain_node
from tests.support.mesh.mesh_outside import sidecar, until
from tests.support.soak import soak

pytestmark = pytest.mark.integration

MESH = ("--cold=1",)
HOT, COLD = "triton-0", "triton-1"


async def maintain_service(mesh: LiveMesh, enable: bool) -> None:
    await mesh.maintain(HOT, enable)


@pytest.mark.parametrize(
    "take_out",
    [maintain_node, *(pytest.param(each, marks=soak) for each in (fail_node, maintain_service))],
    ids=lambda each: each.__name__,
)
async def test_the_primary_serves_until_the_cold_standby_has_loaded_its_models(
    mesh: LiveMesh, take_out: Callable[[LiveMesh, bool], Awaitable[None]]
) -> None:
    await mesh.steady()
    async with apart(mesh, COLD):
        if await mesh.primary() != HOT:
            done = sidecar("switchover", f"--to={HOT}", f"--mesh={mesh.folder}")
            assert done.returncode == 0, done.stdout + done.stderr
        async with mesh.under_load() as scene:
            epoch = scene.timeline.epoch
            assert scene.primary == HOT
            await take_out(mesh, True)
            try:
                assert await scene.succeeded(HOT, epoch) == COLD
                await mesh.avoided(HOT, idle=True)
                await scene.flows()
            finally:
                await take_out(mesh, False)
            await mesh.steady()
            assert scene.primary == COLD
        unharmed(scene.load)
        done = sidecar("switchover", f"--to={HOT}", f"--mesh={mesh.folder}")
        assert done.returncode == 0, done.stdout + done.stderr
        await until(lambda: mesh.primary(), "a primary")
    await mesh.steady()
