"""What clients send through Envoy arrives unchanged, and so does what comes back."""

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


async def test_64_mib_both_ways(mesh: LiveMesh) -> None:
    numbers = np.random.default_rng(1).random(16 * 2**20, dtype=np.float32)
    payload = aio.InferInput("payload", [numbers.size], "FP32")
    payload.set_data_from_numpy(numbers)
    async with aio.InferenceServerClient(mesh.now.envoy.grpc) as client:
        outputs = [aio.InferRequestedOutput("echo")]
        result = await client.infer("embedder", [text("text", "large"), payload], outputs=outputs)
    assert np.array_equal(result.as_numpy("echo"), numbers)


async def test_a_deadline_is_honoured_and_passed_on(mesh: LiveMesh) -> None:
    await mesh.steady()
    slow = question("The primary", max_tokens=600, delay_ms=1000)
    async with aio.InferenceServerClient(mesh.now.envoy.grpc) as client:
        # One for each of the two processes that run the model, which they would hold for long.
        asked = [client.infer(UNARY, slow, client_timeout=0.5) for _ in range(2)]
        refused = await asyncio.gather(*asked, return_exceptions=True)
        # Triton has been told that nobody waits any more: they answer again.
        await client.infer(UNARY, question("Hello"), client_timeout=60)
    assert [_status(error) for error in refused] == ["StatusCode.DEADLINE_EXCEEDED"] * 2


def _status(error: object) -> object:
    return error.status() if isinstance(error, InferenceServerException) else error


async def test_a_stream_that_is_given_up_ends_in_triton_too(mesh: LiveMesh) -> None:
    await mesh.steady()
    primary = await mesh.primary()

    async def busy() -> bool:
        return (await mesh.hosts())[primary].active > 0

    async def idle() -> bool:
        return not await busy()

    async with generation(mesh.now.envoy.grpc, tokens=600, delay_ms=1000) as running:
        # The first words come long before the last ones are made: nothing is held back.
        await until(lambda: running.text, "the beginning of a generation of ten minutes")
        assert await busy()
    await until(idle, "no request of Envoy's on the instance")


@pytest.mark.parametrize("model", [UNARY, "unheard-of"])
async def test_an_error_is_the_same_as_from_triton_itself(mesh: LiveMesh, model: str) -> None:
    await mesh.steady()
    now = mesh.now
    direct = now.instance(await mesh.primary()).triton.grpc
    said = [await _refusal(address, model) for address in (now.envoy.grpc, direct)]
    assert said[0] == said[1]
    if model == UNARY:
        status, message = said[0]
        assert status == "StatusCode.INVALID_ARGUMENT"
        assert "max_tokens" in message


async def _refusal(address: str, model: str) -> tuple[str, str]:
    async with aio.InferenceServerClient(address) as client:
        with pytest.raises(InferenceServerException) as refused:
            await client.infer(model, question("Hello", max_tokens="many"))
    return refused.value.status(), refused.value.message()


async def test_nobody_unloads_a_model_through_envoy(mesh: LiveMesh) -> None:
    await mesh.steady()
    async with aio.InferenceServerClient(mesh.now.envoy.grpc) as client:
        with pytest.raises(InferenceServerException, match="does not admit this method") as refused:
            await client.unload_model(UNARY)
        assert refused.value.status() == "StatusCode.PERMISSION_DENIED"
        # What clients need passes.
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready(UNARY)
        assert (await client.get_server_metadata()).name.startswith("triton")
        assert (await client.get_model_metadata(UNARY)).name == UNARY
        assert (await client.get_model_config(UNARY)).config.name == UNARY
        assert (await client.get_inference_statistics(UNARY)).model_stats
    assert await check(mesh.now.envoy.grpc, "") == "SERVING"


async def test_several_requests_on_one_stream(mesh: LiveMesh) -> None:
    await mesh.steady()
    prompts = {"first": "Hello", "second": "Every probe", "third": "Traffic moves"}
    asked = {name: question(prompt, max_tokens=12) for name, prompt in prompts.items()}
    streamed = {name: [*inputs, piecewise()] for name, inputs in asked.items()}
    said = dict.fromkeys(prompts, "")
    pieces = dict.fromkeys(prompts, 0)
    async with aio.InferenceServerClient(mesh.now.envoy.grpc) as client:
        async for name, piece, _ in stream(client, streamed):
            said[name] += piece
            pieces[name] += 1
        expected = {
            name: answer(await client.infer(UNARY, inputs)) for name, inputs in asked.items()
        }
    assert said == expected
    assert min(pieces.values()) > 1
