"""Requests reach Triton through Envoy unchanged, and responses reach clients unchanged."""

import asyncio

import numpy as np
import pytest
from tritonclient.grpc import aio
from tritonclient.utils import InferenceServerException

from sidecar.local.load import UNARY
from tests.support.mesh.mesh import LiveMesh
from tests.support.mesh.mesh_clients import (
    answer,
    check,
    generation,
    piecewise,
    question,
    stream,
    text,
)
from tests.support.mesh.mesh_outside import until

pytestmark = pytest.mark.integration

ALL_MODELS = True


async def test_tensors_of_64_mib_pass_in_both_directions(mesh: LiveMesh) -> None:
    numbers = np.random.default_rng(1).random(16 * 2**20, dtype=np.float32)
    payload = aio.InferInput("payload", [numbers.size], "FP32")
    payload.set_data_from_numpy(numbers)
    async with aio.InferenceServerClient(mesh.now.envoy.grpc) as client:
        outputs = [aio.InferRequestedOutput("echo")]
        result = await client.infer("embedder", [text("text", "large"), payload], outputs=outputs)
    assert np.array_equal(result.as_numpy("echo"), numbers)


async def test_a_deadline_is_enforced_and_propagated_to_triton(mesh: LiveMesh) -> None:
    await mesh.steady()
    slow = question("The primary", max_tokens=600, delay_ms=1000)
    async with aio.InferenceServerClient(mesh.now.envoy.grpc) as client:
        # One request for each of the model's two processes, which it would occupy for long.
        requests = [client.infer(UNARY, slow, client_timeout=0.5) for _ in range(2)]
        errors = await asyncio.gather(*requests, return_exceptions=True)
        # Triton has cancelled both at their deadline, so the processes are free again.
        await client.infer(UNARY, question("Hello"), client_timeout=60)
    assert [_status(error) for error in errors] == ["StatusCode.DEADLINE_EXCEEDED"] * 2


def _status(error: object) -> object:
    return error.status() if isinstance(error, InferenceServerException) else error


async def test_a_cancelled_stream_is_cancelled_in_triton_too(mesh: LiveMesh) -> None:
    await mesh.steady()
    primary = await mesh.primary()

    async def busy() -> bool:
        return (await mesh.hosts())[primary].active > 0

    async def idle() -> bool:
        return not await busy()

    async with generation(mesh.now.envoy.grpc, tokens=600, delay_ms=1000) as running:
        # The first tokens arrive long before the last ones: the response is not buffered.
        await until(lambda: running.text, "the beginning of a generation of ten minutes")
        assert await busy()
    await until(idle, "no request of Envoy's on the instance")


@pytest.mark.parametrize("model", [UNARY, "unheard-of"])
async def test_an_error_reaches_the_client_unchanged(mesh: LiveMesh, model: str) -> None:
    await mesh.steady()
    now = mesh.now
    direct = now.instance(await mesh.primary()).triton.grpc
    said = [await _error(address, model) for address in (now.envoy.grpc, direct)]
    assert said[0] == said[1]
    if model == UNARY:
        status, message = said[0]
        assert status == "StatusCode.INVALID_ARGUMENT"
        assert "max_tokens" in message


async def _error(address: str, model: str) -> tuple[str, str]:
    async with aio.InferenceServerClient(address) as client:
        with pytest.raises(InferenceServerException) as refused:
            await client.infer(model, question("Hello", max_tokens="many"))
    return refused.value.status(), refused.value.message()


async def test_a_client_cannot_unload_a_model_through_envoy(mesh: LiveMesh) -> None:
    await mesh.steady()
    async with aio.InferenceServerClient(mesh.now.envoy.grpc) as client:
        with pytest.raises(InferenceServerException, match="does not admit this method") as refused:
            await client.unload_model(UNARY)
        assert refused.value.status() == "StatusCode.PERMISSION_DENIED"
        # The methods that clients need are admitted.
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready(UNARY)
        assert (await client.get_server_metadata()).name.startswith("triton")
        assert (await client.get_model_metadata(UNARY)).name == UNARY
        assert (await client.get_model_config(UNARY)).config.name == UNARY
        assert (await client.get_inference_statistics(UNARY)).model_stats
    assert await check(mesh.now.envoy.grpc, "") == "SERVING"


async def test_responses_on_one_stream_match_their_requests(mesh: LiveMesh) -> None:
    await mesh.steady()
    prompts = {"first": "Hello", "second": "Every probe", "third": "Traffic moves"}
    requests = {name: question(prompt, max_tokens=12) for name, prompt in prompts.items()}
    streamed = {name: [*inputs, piecewise()] for name, inputs in requests.items()}
    said = dict.fromkeys(prompts, "")
    pieces = dict.fromkeys(prompts, 0)
    async with aio.InferenceServerClient(mesh.now.envoy.grpc) as client:
        async for name, piece, _ in stream(client, streamed):
            said[name] += piece
            pieces[name] += 1
        expected = {
            name: answer(await client.infer(UNARY, inputs)) for name, inputs in requests.items()
        }
    assert said == expected
    assert min(pieces.values()) > 1
