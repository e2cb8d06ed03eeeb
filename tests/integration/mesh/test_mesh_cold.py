"""A cold standby in a real mesh: it loads its models only when no hot instance is left."""

import json
import signal

import pytest

from sidecar.local import consul_view
from tests.support.mesh.mesh import LiveMesh
from tests.support.mesh.mesh_clients import generation
from tests.support.mesh.mesh_outside import http, sidecar, until

pytestmark = pytest.mark.integration

MESH = ("--instances=3", "--cold=1")
COLD = "triton-2"


async def loaded(mesh: LiveMesh) -> list[str]:
    """The models that the cold standby's Triton reports as loaded."""
    address = mesh.instance(COLD).triton.http
    index = json.loads(await http("POST", f"http://{address}/v2/repository/index", {}))
    return sorted(model["name"] for model in index if model.get("state") == "READY")


async def state(mesh: LiveMesh) -> tuple[str, str]:
    async with consul_view.connect(mesh.now) as consul:
        seen = (await consul_view.observe(consul))[COLD]
    return seen.status, seen.role


async def test_a_hot_standby_is_preferred_to_a_cold_one(mesh: LiveMesh) -> None:
    async with mesh.under_load() as scene:
        victim, epoch = scene.primary, scene.timeline.epoch
        mesh.signal(victim, signal.SIGKILL)
        assert await scene.succeeded(victim, epoch) != COLD
        await mesh.steady()
        await scene.flows()
        assert scene.load.unary.failed == []
    assert await loaded(mesh) == []


async def test_a_cold_standby_that_is_alone_loads_its_models_and_serves(mesh: LiveMesh) -> None:
    await mesh.steady()
    since = mesh.written(mesh.sidecar_of(COLD))
    with mesh.unsupervised():
        for hot in ("triton-0", "triton-1"):
            mesh.signal(hot, signal.SIGKILL)

        async def promoted() -> bool:
            return await state(mesh) == ("passing", "primary")

        await until(promoted, f"{COLD} is promoted")
        await until(lambda: _answered(mesh), "an answer from the promoted instance")
    await until(lambda: _roles(mesh, since)[-1:] == ["primary"], "the sidecar reports it as well")
    assert _roles(mesh, since) == ["promoting", "primary"]


async def test_a_cold_standby_that_loses_the_role_drains_and_unloads(mesh: LiveMesh) -> None:
    """Runs after the previous test: the hot instances are back, and there is no preemption."""
    await until(lambda: _hot_pass(mesh), "the hot instances pass again")
    assert (await state(mesh))[1] == "primary"
    async with generation(mesh.now.envoy.grpc, tokens=40, delay_ms=100) as running:
        await until(lambda: running.text, "the beginning of a generation of 4 s")
        done = sidecar("switchover", "--to=triton-0", f"--mesh={mesh.folder}")
        assert done.returncode == 0, done.stdout + done.stderr
        await until(lambda: running.done, "the end of the generation")
        assert running.error == ""

    async def cold() -> bool:
        return await state(mesh) == ("cold", "standby") and await loaded(mesh) == []

    await until(cold, f"{COLD} has unloaded its models")
    await mesh.steady()


def _roles(mesh: LiveMesh, since: int) -> list[str]:
    events = mesh.events(mesh.sidecar_of(COLD), since)
    return [event["after"] for event in events if event["event"] == "role_changed"]


async def _answered(mesh: LiveMesh) -> bool:
    async with generation(mesh.now.envoy.grpc, tokens=3, delay_ms=10) as answer:
        await until(lambda: answer.done or answer.error, "the end of a generation")
    return answer.done


async def _hot_pass(mesh: LiveMesh) -> bool:
    async with consul_view.connect(mesh.now) as consul:
        seen = await consul_view.observe(consul)
    return {"triton-0", "triton-1"} <= {
        each.id for each in seen.values() if each.status == "passing"
    }
