"""What the primary's death, freeze and graceful stop cost the clients of a mesh: nothing."""

import signal
import time

import pytest

from sidecar.drill.stage.exit_status import ended
from tests.support.mesh.mesh import LiveMesh, unharmed
from tests.support.mesh.mesh_clients import generation, watch
from tests.support.mesh.mesh_outside import until
from tests.support.soak import soak

pytestmark = pytest.mark.integration

MESH = ("--acl",)  # with Consul denying by default, as in production

STOPPING = [
    "hand_over",
    "stop_serving",
    "withdraw",
    "drain",
    "release_role",
    "flush_notifications",
    "end_loops",
    "deregister",
    "close_server",
]


async def test_a_killed_triton(mesh: LiveMesh) -> None:
    async with mesh.under_load(unary=32, streams=4) as scene:
        victim, epoch, began = scene.primary, scene.timeline.epoch, time.monotonic()
        mesh.signal(victim, signal.SIGKILL)
        heir = await scene.succeeded(victim, epoch)
        await mesh.steady()
        await scene.flows()
        # The old one has come back, as a standby: there is no preemption.
        assert scene.primaries(began) == [heir]
    unharmed(scene.load, streams=False)


@soak  # as in test_mesh_recovery.py, where it is killed then
async def test_a_frozen_triton(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene:
        victim, epoch = scene.primary, scene.timeline.epoch
        with mesh.frozen(victim):
            await scene.succeeded(victim, epoch)
            await scene.flows()
        await mesh.steady()
        await scene.flows()
    unharmed(scene.load, streams=False)


async def test_a_graceful_stop(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene:
        victim, epoch = scene.primary, scene.timeline.epoch
        part = mesh.sidecar_of(victim)
        since = mesh.written(part)
        async with generation(mesh.now.envoy.grpc, tokens=50, delay_ms=100) as long:
            await until(lambda: long.text, "the beginning of a generation of 5 s")
            with mesh.unsupervised():
                pid = mesh.signal(part, signal.SIGTERM)
                assert await ended(pid) == 0
                await until(lambda: long.done or long.error, "the generation is read to its end")
                # It has waited for what was in flight.
                assert (long.done, long.error) == (True, "")
        await scene.succeeded(victim, epoch)
        await mesh.steady()
        await scene.flows()
    unharmed(scene.load)
    events = [event for event in mesh.events(part, since) if event.get("step") in STOPPING]
    assert [event["step"] for event in events] == STOPPING
    assert [event for event in events if event["event"] != "step_done"] == []


async def test_a_second_signal_skips_the_waiting(mesh: LiveMesh) -> None:
    await mesh.steady()
    primary = await mesh.primary()
    part, now = mesh.sidecar_of(primary), mesh.now
    since = mesh.written(part)

    def steps() -> dict[str, str]:
        events = [event for event in mesh.events(part, since) if "step" in event]
        return {event["step"]: event.get("error", "") for event in events}

    async with (
        generation(now.envoy.grpc, tokens=600, delay_ms=1000) as long,
        watch(now.instance(primary).sidecar.grpc, "") as said,
    ):
        await until(lambda: long.text, "the beginning of a generation of ten minutes")
        await until(lambda: said == ["SERVING"], "the first word to a watcher")
        with mesh.unsupervised():
            pid = mesh.signal(part, signal.SIGTERM)
            # Watchers are told at once, not when the work is done.
            await until(lambda: said[1:] == ["NOT_SERVING"], "the news to a watcher")
            await until(lambda: "withdraw" in steps(), "the beginning of a graceful stop")
            mesh.signal(part, signal.SIGTERM)
            assert await ended(pid) == 0
        # It was not waited for, and was not cut either: the Triton is still there.
        assert (long.done, long.error) == (False, "")
    assert "second signal" in steps()["drain"]
    assert "deregister" in steps()


async def test_a_killed_sidecar(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene:
        part = mesh.sidecar_of(scene.primary)
        killed = mesh.signal(part, signal.SIGKILL)
        await until(lambda: mesh.running(part) not in (None, killed), "a new sidecar")
        await mesh.steady()
        await scene.flows()
    unharmed(scene.load)


async def test_the_last_instance_serves_on_without_its_sidecar(mesh: LiveMesh) -> None:
    """Nobody has said that its Triton is ill; nor does a sidecar that has only begun to look."""
    async with mesh.under_load() as scene:
        last, other = scene.primary, await mesh.standby()
        part = mesh.sidecar_of(last)

        async def checked(status: str) -> bool:
            return await mesh.checks(last) == {status}

        await mesh.maintain(other, True)
        try:
            await mesh.avoided(other)
            with mesh.unsupervised(), mesh.frozen(part):
                await until(lambda: checked("critical"), "Consul hears nothing of the sidecar")
                await scene.flows()
                mesh.signal(part, signal.SIGKILL)
                await scene.flows()
            await until(lambda: checked("passing"), "a new sidecar has found its Triton well")
            await scene.flows()
        finally:
            await mesh.maintain(other, False)
        await mesh.steady()
    unharmed(scene.load)


async def test_a_killed_control_plane(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene:
        killed = mesh.signal("xds", signal.SIGKILL)
        await until(lambda: mesh.running("xds") not in (None, killed), "a new control plane")
        await mesh.steady()
        # Envoy follows again: it takes an instance away and gives it back.
        standby = await mesh.standby()
        await mesh.maintain(standby, True)
        await mesh.avoided(standby)
        await mesh.maintain(standby, False)
        await mesh.steady()
        await scene.flows()
    unharmed(scene.load)
