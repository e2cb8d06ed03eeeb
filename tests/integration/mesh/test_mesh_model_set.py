"""Editing and loading a model's files on a running Triton takes no instance out of service."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
import pytest

from sidecar.local import consul_view
from sidecar.local.meshfile import Mesh
from sidecar.local.planning.plan import SERVICE
from tests.support.mesh.mesh import LiveMesh, Scene, unharmed
from tests.support.mesh.mesh_outside import http, until

pytestmark = pytest.mark.integration

ENVIRONMENT = {"TRITON_SIDECAR_TRITON__REPOSITORY_INTERVAL": "300ms"}
MODEL = "tinychat_unary"


@contextmanager
def edited(mesh: LiveMesh, instance: str) -> Iterator[None]:
    """Within the context, a model's file differs, but its answers do not."""
    [found] = (mesh.folder / instance / "models" / MODEL).rglob("model.py")
    text = found.read_text()
    found.write_text(text + "\n# Edited.\n")
    try:
        yield
    finally:
        found.write_text(text)


async def digests(mesh: Mesh) -> dict[str, str]:
    """The digest of the model set in each instance's entry, by instance."""
    async with consul_view.connect(mesh) as consul:
        entries = (await consul.health_service(SERVICE)).value
    return {entry.id: entry.meta.get("model_set", "") for entry in entries}


async def reports_edited_files(mesh: LiveMesh, instance: str) -> bool:
    """Whether a sidecar reports that its repository differs from the loaded models."""
    try:
        text = await http("GET", f"http://{mesh.instance(instance).sidecar.metrics}/metrics")
    except (AssertionError, aiohttp.ClientError):
        return False  # its process is being replaced
    return "triton_sidecar_model_files_astray 1.0" in text.splitlines()


async def test_an_edited_file_takes_no_instance_out_until_the_primary_restarts(
    mesh: LiveMesh,
) -> None:
    async with mesh.under_load() as scene:
        victim, epoch, before = scene.primary, scene.timeline.epoch, await digests(mesh.now)
        assert len(set(before.values())) == 1
        with edited(mesh, victim):
            await until(
                lambda: reports_edited_files(mesh, victim), "the sidecar reports the edited file"
            )
            await scene.flows()
            assert await digests(mesh.now) == before
            await kill(mesh, scene, victim, epoch)
            # It restarts with the edited file, so its model set differs from the others'.
            await critical(mesh, victim)
        await reload(mesh, victim)
        await scene.flows()
    unharmed(scene.load, streams=False)


async def test_a_primary_that_loads_another_model_set_fails_over(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene:
        victim, epoch, before = scene.primary, scene.timeline.epoch, await digests(mesh.now)
        with edited(mesh, victim):
            await mesh.repository(victim, MODEL, "load")

            async def differ() -> bool:
                async with consul_view.connect(mesh.now) as consul:
                    seen = await consul_view.observe(consul)
                return {name for name in seen if seen[name].differs} == {*before} - {victim}

            await until(differ, "the others differ from the primary")
            await scene.flows()
            await kill(mesh, scene, victim, epoch)
        await reload(mesh, victim)
        await scene.flows()
    unharmed(scene.load, streams=False)


async def test_a_restarted_sidecar_knows_the_loaded_model_set(mesh: LiveMesh) -> None:
    await mesh.steady()
    primary, before = await mesh.primary(), await digests(mesh.now)
    standby = next(name for name in before if name != primary)
    with edited(mesh, standby):
        await until(
            lambda: reports_edited_files(mesh, standby), "the sidecar reports the edited file"
        )
        part = mesh.sidecar_of(standby)
        since = mesh.written(part)
        mesh.signal(part, signal.SIGKILL)
        await mesh.registered_anew(standby, since)
        await until(
            lambda: reports_edited_files(mesh, standby), "the new sidecar reports the edited file"
        )
        await mesh.steady()
        assert await digests(mesh.now) == before
    verdicts = [event.get("verdict", "") for event in mesh.events(part, since)]
    assert [each for each in verdicts if "MODEL_SET_DIFFERS" in each] == []


async def kill(mesh: LiveMesh, scene: Scene, victim: str, epoch: int) -> None:
    """Kill the primary's Triton; before, all instances must be usable."""
    hosts = await mesh.hosts()
    assert [name for name, host in hosts.items() if not host.usable] == []
    mesh.signal(victim, signal.SIGKILL)
    await scene.succeeded(victim, epoch)
    await scene.flows()


async def critical(mesh: LiveMesh, instance: str) -> None:
    """Wait until an instance is critical because its model set differs."""

    async def differs() -> bool:
        return "MODEL_SET_DIFFERS" in await mesh.reason(instance)

    await until(differs, f"{instance} is critical because of its model set")


async def reload(mesh: LiveMesh, instance: str) -> None:
    """Reload the model from the unedited file, as the other instances have it."""
    await until(lambda: mesh.reloaded(instance, MODEL), "the model is reloaded")
    await mesh.steady()
