"""A model's files are edited beside a running Triton, and loaded: nobody is taken out by it."""

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

MESH = ("--instances=3",)
ENVIRONMENT = {"TRITON_SIDECAR_TRITON__REPOSITORY_INTERVAL": "300ms"}
MODEL = "tinychat_unary"


@contextmanager
def edited(mesh: LiveMesh, instance: str) -> Iterator[None]:
    """A file of a model is another one, in a way that changes none of the model's answers."""
    [found] = (mesh.folder / instance / "models" / MODEL).rglob("model.py")
    text = found.read_text()
    found.write_text(text + "\n# Edited.\n")
    try:
        yield
    finally:
        found.write_text(text)


async def digests(mesh: Mesh) -> dict[str, str]:
    """The model sets that the catalog shows, by instance."""
    async with consul_view.connect(mesh) as consul:
        entries = (await consul.health_service(SERVICE)).value
    return {entry.id: entry.meta.get("model_set", "") for entry in entries}


async def astray(mesh: LiveMesh, instance: str) -> bool:
    """Whether a sidecar says that its repository holds something else than what is loaded."""
    try:
        text = await http("GET", f"http://{mesh.instance(instance).sidecar.metrics}/metrics")
    except (AssertionError, aiohttp.ClientError):
        return False  # its process is being replaced
    return "triton_sidecar_model_files_astray 1.0" in text.splitlines()


async def test_a_file_is_edited_beside_the_primary_and_then_it_dies(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene:
        victim, epoch, before = scene.primary, scene.timeline.epoch, await digests(mesh.now)
        assert len(set(before.values())) == 1
        with edited(mesh, victim):
            await until(lambda: astray(mesh, victim), "the sidecar tells of the edited file")
            await scene.flows()
            assert await digests(mesh.now) == before
            await kill(mesh, scene, victim, epoch)
            # What it comes back with is what lies there now, which is another set than others'.
            await refused(mesh, victim)
        await mended(mesh, victim)
        await scene.flows()
    unharmed(scene.load, streams=False)


async def test_the_primary_loads_another_model_set_and_then_it_dies(mesh: LiveMesh) -> None:
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
        await mended(mesh, victim)
        await scene.flows()
    unharmed(scene.load, streams=False)


async def test_a_sidecar_that_is_started_anew_knows_what_is_loaded(mesh: LiveMesh) -> None:
    await mesh.steady()
    primary, before = await mesh.primary(), await digests(mesh.now)
    standby = next(name for name in before if name != primary)
    with edited(mesh, standby):
        await until(lambda: astray(mesh, standby), "the sidecar tells of the edited file")
        part = mesh.sidecar_of(standby)
        since = mesh.written(part)
        mesh.signal(part, signal.SIGKILL)
        await mesh.registered_anew(standby, since)
        await until(lambda: astray(mesh, standby), "its successor tells of the edited file")
        await mesh.steady()
        assert await digests(mesh.now) == before
    said = [event.get("verdict", "") for event in mesh.events(part, since)]
    assert [each for each in said if "MODEL_SET_DIFFERS" in each] == []


async def kill(mesh: LiveMesh, scene: Scene, victim: str, epoch: int) -> None:
    """Kill the primary's Triton when everybody is there, as all have to be all the time."""
    hosts = await mesh.hosts()
    assert [name for name, host in hosts.items() if not host.usable] == []
    mesh.signal(victim, signal.SIGKILL)
    await scene.succeeded(victim, epoch)
    await scene.flows()


async def refused(mesh: LiveMesh, instance: str) -> None:
    """Wait until an instance takes no requests for its model set."""

    async def said() -> bool:
        return "MODEL_SET_DIFFERS" in await mesh.reason(instance)

    await until(said, f"{instance} is refused for its model set")


async def mended(mesh: LiveMesh, instance: str) -> None:
    """Load what lies there, which is what the others have."""
    await until(lambda: mesh.reloaded(instance, MODEL), "the model is loaded anew")
    await mesh.steady()
