"""Automatic recovery from a Triton that hangs, dead stubs, and an unloaded model."""

import asyncio
import os
import signal

import pytest

from sidecar.drill.injections.processes import stubs
from sidecar.local.load import UNARY
from tests.support.mesh.mesh import LiveMesh, unharmed
from tests.support.mesh.mesh_outside import gone, until

pytestmark = pytest.mark.integration

ENVIRONMENT = {
    "TRITON_SIDECAR_RECOVERY__AFTER": "2s",
    "TRITON_SIDECAR_RECOVERY__UNANSWERED_AFTER": "2s",
}


async def test_a_triton_that_hangs_is_killed(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene:
        victim, epoch = scene.primary, scene.timeline.epoch
        hung = mesh.pid(victim)
        os.killpg(hung, signal.SIGSTOP)
        await scene.succeeded(victim, epoch)
        await until(lambda: gone(hung), "the end of the Triton that hangs")
        await mesh.steady()
        await scene.flows()
    unharmed(scene.load, streams=False)


async def test_all_tritons_are_killed_if_all_hang(mesh: LiveMesh) -> None:
    hung = [mesh.pid(instance.id) for instance in mesh.now.instances]
    for pid in hung:
        os.killpg(pid, signal.SIGSTOP)
    await until(lambda: all(map(gone, hung)), "the end of all Tritons that hang")
    await mesh.steady()


async def test_an_instance_with_dead_stubs_recovers(mesh: LiveMesh) -> None:
    victim = await mesh.primary()
    for stub in stubs(mesh.pid(victim), UNARY):
        os.kill(stub, signal.SIGKILL)
    await until(lambda: _has_reason(mesh, victim), f"{victim} is critical")
    await mesh.steady()


async def test_an_unloaded_model_is_loaded_again_by_the_same_triton(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene:
        victim, epoch, pid = scene.primary, scene.timeline.epoch, mesh.pid(scene.primary)
        await mesh.repository(victim, UNARY, "unload")
        await scene.succeeded(victim, epoch)
        await mesh.steady()
        await scene.flows()
    assert mesh.pid(victim) == pid


async def test_a_model_that_is_unloaded_in_maintenance_stays_unloaded(mesh: LiveMesh) -> None:
    victim = await mesh.standby()
    since = mesh.written(part := mesh.sidecar_of(victim))
    await mesh.maintain(victim, enable=True)
    try:
        await until(
            lambda: _has_reported(mesh, part, since, "MAINTENANCE"), f"{victim} is in maintenance"
        )
        await mesh.repository(victim, UNARY, "unload")
        await asyncio.sleep(5)  # longer than recovery takes outside maintenance
        assert not [each for each in mesh.events(part, since) if each["event"] == "recovery_acting"]
        assert await mesh.reason(victim)
    finally:
        await mesh.repository(victim, UNARY, "load")
        await mesh.maintain(victim, enable=False)
    await mesh.steady()


async def _has_reason(mesh: LiveMesh, instance: str) -> bool:
    return bool(await mesh.reason(instance))


def _has_reported(mesh: LiveMesh, part: str, since: int, word: str) -> bool:
    verdicts = [
        each["after"] for each in mesh.events(part, since) if each["event"] == "verdict_changed"
    ]
    return any(each.startswith(word) for each in verdicts)
