"""Routing by model in a real mesh: what happens to one model moves only that model's requests."""

import json

import pytest
from tritonclient.grpc import aio
from tritonclient.utils import InferenceServerException

from sidecar.local import consul_view
from sidecar.local.load import STREAM, UNARY
from sidecar.local.planning.plan import SERVICE
from sidecar.registry.registration import models_unusable
from tests.support.mesh.mesh import LiveMesh, unharmed
from tests.support.mesh.mesh_clients import answer, question
from tests.support.mesh.mesh_outside import sidecar, until
from tests.support.soak import times

pytestmark = pytest.mark.integration

MESH = ("--instances=3",)
ENVIRONMENT = {
    "TRITON_SIDECAR_HEALTH__REQUIRED_MODELS": "any",
    "TRITON_SIDECAR_ELECTION__MISMATCH": "serve",
}
POLICY = {"routing": "by-model", "models": {"chat": {"to": UNARY, "fallback": [STREAM]}}}


@pytest.fixture
async def routed(mesh: LiveMesh) -> LiveMesh:
    """The mesh with the policy."""
    path = mesh.folder / "policy.json"
    path.write_text(json.dumps(POLICY))
    sidecar("policy", "set", str(path), f"--mesh={mesh.folder}", check=True)

    async def routes() -> bool:
        return not await _code(mesh, "chat", "")

    await until(routes, "Envoy knows the alias")
    assert await _code(mesh, "nothing", "NOT_FOUND")
    return mesh


async def unusable(mesh: LiveMesh) -> dict[str, dict[str, str]]:
    """The models that each instance may not serve, according to Consul."""
    async with consul_view.connect(mesh.now) as consul:
        entries = (await consul.health_service(SERVICE)).value
    return {entry.id: dict(models_unusable(entry.tags)) for entry in entries}


async def _code(mesh: LiveMesh, model: str, code: str) -> bool:
    """Whether a request for a model fails with this code."""
    async with aio.InferenceServerClient(mesh.now.envoy.grpc) as client:
        try:
            await client.infer(model, question("The primary", max_tokens=2))
        except InferenceServerException as error:
            return code in error.status()
    return False


async def _ask(mesh: LiveMesh, model: str) -> tuple[str, str]:
    """The model that answers according to the answer, and what it says."""
    async with aio.InferenceServerClient(mesh.now.envoy.grpc) as client:
        found = await client.infer(model, question("The primary", max_tokens=4))
    return found.get_response().model_name, answer(found)


async def test_a_model_moves_alone_when_it_is_unloaded_and_loaded(routed: LiveMesh) -> None:
    mesh = routed
    async with mesh.under_load() as scene:
        primary, epoch = scene.primary, scene.timeline.epoch
        for _ in range(times(2, soaking=5)):
            await mesh.repository(primary, UNARY, "unload")

            async def published() -> bool:
                return (await unusable(mesh))[primary] == {UNARY: "MODEL_NOT_READY"}

            await until(published, "Consul shows that the model is not usable")
            await scene.flows()
            listed = sidecar("list", f"--mesh={mesh.folder}", check=True).stdout
            assert f"{primary}: does not serve the model {UNARY}: MODEL_NOT_READY" in listed
            await mesh.repository(primary, UNARY, "load")

            async def recovered() -> bool:
                return not any((await unusable(mesh)).values())

            await until(recovered, "Consul shows that it is usable again")
            await scene.flows()
        assert (scene.primary, scene.timeline.epoch) == (primary, epoch)
    unharmed(scene.load)


async def test_a_model_that_no_instance_serves_is_unavailable(routed: LiveMesh) -> None:
    mesh = routed
    assert (await _ask(mesh, "chat")) == (await _ask(mesh, UNARY))
    instances = [each.id for each in mesh.now.instances]
    for instance in instances:
        await mesh.repository(instance, UNARY, "unload")
    await until(lambda: _code(mesh, UNARY, "UNAVAILABLE"), "it is unavailable")
    for instance in instances:
        await mesh.repository(instance, UNARY, "load")

    async def answers() -> bool:
        return not await _code(mesh, UNARY, "UNAVAILABLE")

    await until(answers, "it is available again")
    await mesh.steady()
