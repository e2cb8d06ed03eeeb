"""Killing, freezing or stopping the primary, its sidecar or the control plane fails no request."""

import signal
import time

import pytest

from sidecar.drill.stage.exit_status import ended
from tests.support.mesh.mesh import LiveMesh, unharmed
from tests.support.mesh.mesh_clients import generation, watch
from tests.support.mesh.mesh_outside import until
from tests.support.soak import soak

pytestmark = pytest.mark.integration

MESH = ("--acl",)  # default deny, as in production

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


async def test_a_killed_primary_fails_over_without_a_failed_request(mesh: LiveMesh) -> None:
    async with mesh.under_load(unary=32, streams=4) as scene:
        victim, epoch, began = scene.primary, scene.timeline.epoch, time.monotonic()
        mesh.signal(victim, signal.SIGKILL)
        successor = await scene.succeeded(victim, epoch)
        await mesh.steady()
        await scene.flows()
        # The former primary is back, as a standby: there is no preemption.
        assert scene.primaries(began) == [successor]
    unharmed(scene.load, streams=False)


@soak  # as in test_mesh_recovery.py, where recovery then kills it
async def test_a_frozen_primary_fails_over_without_a_failed_request(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene:
        victim, epoch = scene.primary, scene.timeline.epoch
        with mesh.frozen(victim):
            await scene.succeeded(victim, epoch)
            await scene.flows()
        await mesh.steady()
        await scene.flows()
    unharmed(scene.load, streams=False)


async def test_a_graceful_stop_hands_over_drains_and_deregisters(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene:
        victim, epoch = scene.primary, scene.timeline.epoch
        part = mesh.sidecar_of(victim)
        since = mesh.written(part)
        async with generation(mesh.now.envoy.grpc, tokens=50, delay_ms=100) as running:
            await until(lambda: running.text, "the beginning of a generation of 5 s")
            with mesh.unsupervised():
                pid = mesh.signal(part, signal.SIGTERM)
                assert await ended(pid) == 0
                await until(
                    lambda: running.done or running.error, "the generation is read to its end"
                )
                # The sidecar has waited for the request in flight.
                assert (running.done, running.error) == (True, "")
        await scene.succeeded(victim, epoch)
        await mesh.steady()
        await scene.flows()
    unharmed(scene.load)
    events = [event for event in mesh.events(part, since) if event.get("step") in STOPPING]
    assert [event["step"] for event in events] == STOPPING
    assert [event for event in events if event["event"] != "step_done"] == []


async def test_a_second_signal_skips_the_drain(mesh: LiveMesh) -> None:
    await mesh.steady()
    primary = await mesh.primary()
    part, now = mesh.sidecar_of(primary), mesh.now
    since = mesh.written(part)

    def steps() -> dict[str, str]:
        events = [event for event in mesh.events(part, since) if "step" in event]
        return {event["step"]: event.get("error", "") for event in events}

    async with (
        generation(now.envoy.grpc, tokens=600, delay_ms=1000) as running,
        watch(now.instance(primary).sidecar.grpc, "") as statuses,
    ):
        await until(lambda: running.text, "the beginning of a generation of ten minutes")
        await until(lambda: statuses == ["SERVING"], "the first status for the watcher")
        with mesh.unsupervised():
            pid = mesh.signal(part, signal.SIGTERM)
            # Watchers are notified at once, before the drain.
            await until(lambda: statuses[1:] == ["NOT_SERVING"], "the new status for the watcher")
            await until(lambda: "withdraw" in steps(), "the beginning of a graceful stop")
            mesh.signal(part, signal.SIGTERM)
            assert await ended(pid) == 0
        # The sidecar did not wait for the stream, and its Triton did not cut it.
        assert (running.done, running.error) == (False, "")
    assert steps()["drain"].startswith("skipped")
    assert "deregister" in steps()


async def test_a_killed_sidecar_fails_no_request(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene:
        part = mesh.sidecar_of(scene.primary)
        killed = mesh.signal(part, signal.SIGKILL)
        await until(lambda: mesh.running(part) not in (None, killed), "a new sidecar")
        await mesh.steady()
        await scene.flows()
    unharmed(scene.load)


async def test_the_last_instance_keeps_serving_without_its_sidecar(mesh: LiveMesh) -> None:
    """No sidecar has reported its Triton unhealthy, nor does one that has just started."""
    async with mesh.under_load() as scene:
        last, other = scene.primary, await mesh.standby()
        part = mesh.sidecar_of(last)

        async def checked(status: str) -> bool:
            return await mesh.checks(last) == {status}

        await mesh.maintain(other, True)
        try:
            await mesh.avoided(other)
            with mesh.unsupervised(), mesh.frozen(part):
                await until(lambda: checked("critical"), "Consul has no news from the sidecar")
                await scene.flows()
                mesh.signal(part, signal.SIGKILL)
                await scene.flows()
            await until(lambda: checked("passing"), "a new sidecar has found its Triton healthy")
            await scene.flows()
        finally:
            await mesh.maintain(other, False)
        await mesh.steady()
    unharmed(scene.load)


async def test_a_killed_control_plane_fails_no_request(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene:
        killed = mesh.signal("xds", signal.SIGKILL)
        await until(lambda: mesh.running("xds") not in (None, killed), "a new control plane")
        await mesh.steady()
        # Envoy follows the new control plane, which withdraws an instance and restores it.
        standby = await mesh.standby()
        await mesh.maintain(standby, True)
        await mesh.avoided(standby)
        await mesh.maintain(standby, False)
        await mesh.steady()
        await scene.flows()
    unharmed(scene.load)
