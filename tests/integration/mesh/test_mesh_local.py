"""The commands of `triton-sidecar local`, on a mesh whose Consul denies by default."""

import json
import os
import signal
from pathlib import Path

import aiohttp
import pytest

from sidecar.drill.stage.exit_status import ended
from sidecar.local.planning import ports
from sidecar.local.processes import process, state_file
from sidecar.local.processes.identity import alive, marked
from tests.support.mesh.mesh import LiveMesh, unharmed
from tests.support.mesh.mesh_outside import gone, sidecar, until
from tests.support.soak import soak

pytestmark = pytest.mark.integration

MESH = ("--acl",)  # the flags of the fixture `mesh` in this file
ALL_MODELS = True


# --- with ACLs --------------------------------------------------------------------------------


async def test_a_client_without_a_token_sees_no_services(mesh: LiveMesh) -> None:
    await mesh.steady()
    token = mesh.now.consul.token_file
    assert token is not None
    assert token.stat().st_mode & 0o077 == 0
    url = f"http://{mesh.now.consul.http}/v1/catalog/services"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert await answer.json() == {}


# As in `test_mesh_failover.py`, which has its own mesh with ACLs.


@soak
async def test_a_killed_primary_fails_over_with_acls(mesh: LiveMesh) -> None:
    async with mesh.under_load(unary=16, streams=2) as scene:
        victim, epoch = scene.primary, scene.timeline.epoch
        mesh.signal(victim, signal.SIGKILL)
        await scene.succeeded(victim, epoch)
        await mesh.steady()
        await scene.flows()
    unharmed(scene.load, streams=False)


@soak
async def test_a_graceful_stop_fails_over_with_acls(mesh: LiveMesh) -> None:
    async with mesh.under_load(unary=16, streams=2) as scene:
        victim, epoch = scene.primary, scene.timeline.epoch
        with mesh.unsupervised():
            assert await ended(mesh.signal(mesh.sidecar_of(victim), signal.SIGTERM)) == 0
        await scene.succeeded(victim, epoch)
        await mesh.steady()
        await scene.flows()
    unharmed(scene.load)


# --- the commands -----------------------------------------------------------------------------


async def test_up_in_the_folder_of_a_running_mesh_is_rejected(mesh: LiveMesh) -> None:
    refused = sidecar("local", "up", "--detach", f"--dir={mesh.folder}")
    assert refused.returncode == 2
    assert str(mesh.folder) in refused.stderr
    assert "Traceback" not in refused.stderr
    await mesh.steady()


async def test_status_shows_one_primary_and_one_standby(mesh: LiveMesh) -> None:
    await mesh.steady()
    shown = sidecar("local", "status", f"--mesh={mesh.folder}", check=True)
    assert "primary" in shown.stdout
    status = json.loads(sidecar("local", "status", "--json", f"--mesh={mesh.folder}").stdout)
    assert status["well"]
    assert sorted(instance["role"] for instance in status["instances"]) == ["primary", "standby"]


async def test_down_removes_everything_of_one_mesh_only(mesh: LiveMesh, tmp_path: Path) -> None:
    other = _up(tmp_path)
    await other.steady()
    await mesh.steady()
    remains = Remains(tmp_path)
    assert remains.left()
    sidecar("local", "down", f"--mesh={tmp_path}", check=True)
    assert remains.left() == []
    assert not (tmp_path / "mesh.json").exists()
    assert sidecar("local", "status", f"--mesh={tmp_path}").returncode == 2
    assert "no mesh" in sidecar("local", "down", f"--mesh={tmp_path}", check=True).stdout
    await mesh.steady()


async def test_down_cleans_up_after_a_killed_supervisor(mesh: LiveMesh, tmp_path: Path) -> None:
    other = _up(tmp_path)
    remains = Remains(tmp_path)
    supervisor = other.now.supervisor
    assert supervisor is not None
    serving = [other.running(part) for part in ("consul", "xds", "envoy", "sidecar-0")]
    os.kill(supervisor, signal.SIGKILL)
    # A part that dies later leaves its processes behind.
    triton = other.signal(other.now.instances[0].id, signal.SIGKILL)
    await until(lambda: gone(triton), "the end of the Triton")
    shown = sidecar("local", "status", f"--mesh={tmp_path}")
    assert shown.returncode == 1
    assert "supervisor is gone" in shown.stdout
    # The remaining parts may be serving, so `up` does not stop them.
    refused = sidecar("local", "up", "--detach", f"--dir={tmp_path}")
    assert refused.returncode != 0
    assert f"local down --mesh {tmp_path}" in refused.stderr
    assert not any(pid is None or gone(pid) for pid in serving)
    sidecar("local", "down", f"--mesh={tmp_path}", check=True)
    assert remains.left() == []
    await mesh.steady()


def _up(folder: Path) -> LiveMesh:
    sidecar("local", "up", "--detach", "--instances=1", f"--dir={folder}", check=True)
    return LiveMesh(folder)


class Remains:
    """The processes, shared memory and ports of a mesh; none may remain when it is down."""

    def __init__(self, folder: Path) -> None:
        found = state_file.load(folder)
        assert found is not None
        self._found = found
        self._processes = {found.supervisor, *marked(found.mesh)}

    def left(self) -> list[str]:
        processes = self._processes | set(marked(self._found.mesh))
        regions = [
            path for name in self._found.shm_prefixes for path in process.shared_memory(name)
        ]
        return [
            *(f"process {identity.pid}" for identity in processes if alive(identity)),
            *map(str, regions),
            *(f"port {port}" for port in self._found.ports if ports.in_use(port)),
        ]
