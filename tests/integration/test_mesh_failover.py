"""What a primary's death, freeze and orderly stop cost the clients of a mesh: nothing."""

import os
import signal

import pytest

from tests.integration.mesh import LiveMesh, monotonic, unharmed, until

pytestmark = pytest.mark.integration


async def test_a_killed_triton(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene:
        victim, epoch, began = scene.primary, scene.timeline.epoch, monotonic()
        mesh.signal(victim, signal.SIGKILL)
        heir = await scene.succeeded(victim, epoch)
        await mesh.well()
        await scene.flows()
        # The old one has come back, as a standby: there is no preemption.
        assert scene.primaries(began) == [heir]
    unharmed(scene.load, streams=False)


async def test_a_frozen_triton(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene:
        victim, epoch = scene.primary, scene.timeline.epoch
        with mesh.frozen(victim):
            await scene.succeeded(victim, epoch)
            await scene.flows()
        await mesh.well()
        await scene.flows()
    unharmed(scene.load, streams=False)
