"""A mesh whose sidecars cut the connections that outlive a drain.

`test_drain_cut.py` runs it in its own network namespace, where any user may reset connections.
"""

from tests.support.mesh.mesh import LiveMesh, unharmed
from tests.support.mesh.mesh_clients import generation
from tests.support.mesh.mesh_outside import metric, until

# Longer than any request that is not stuck, and shorter than the generation.
ENVIRONMENT = {
    "TRITON_SIDECAR_DRAIN__CUT": "true",
    "TRITON_SIDECAR_DRAIN__TIMEOUT": "15s",
}
CUT = "triton_sidecar_drain_connections_cut_total"


async def test_a_stream_that_outlives_maintenance_is_cut_and_counted(mesh: LiveMesh) -> None:
    async with mesh.under_load(unary=16, streams=1) as scene:
        victim, epoch = scene.primary, scene.timeline.epoch
        sidecar = mesh.instance(victim).sidecar.metrics
        async with generation(mesh.now.envoy.grpc, tokens=600, delay_ms=100) as endless:
            await until(lambda: endless.text, "the beginning of a generation of a minute")
            await mesh.maintain(victim, True)
            await scene.succeeded(victim, epoch)
            await until(lambda: endless.error, "the generation is cut")
            assert not endless.done
        assert await metric(sidecar, CUT) >= 1
        await mesh.avoided(victim, idle=True)
        await mesh.maintain(victim, False)
        await mesh.steady()
        await scene.flows()
    unharmed(scene.load)
