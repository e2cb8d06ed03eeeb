"""What the code relies on in Triton: one suite for the fake and a real server."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping

import numpy as np
import pytest

from sidecar.health.progress import Loads, by_name
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.errors import AnswerTooLarge, DeadlineExceeded, NotFound, Rejected, Unavailable
from sidecar.triton.api import (
    Answer,
    InferenceRequest,
    ModelDescription,
    Statistics,
    Tensor,
    TensorSpec,
    TritonApi,
)
from sidecar.triton.client import Triton
from sidecar.triton.infer_requests import RESERVED_IDS
from sidecar.triton.tensors import DATATYPES, tensor
from tests.support.fake_triton import FakeModel, FakeTriton, echo
from tests.support.triton_server import TritonServer

pytestmark = pytest.mark.contract
LONG = 60.0  # seconds; machines are shared


def _everything() -> dict[str, Tensor]:
    """One tensor of each datatype, a batch of two."""
    found = {
        name: tensor(name, [2, 1], [1, 0]) for name in DATATYPES if name not in ("BYTES", "BF16")
    }
    found["BF16"] = tensor("BF16", [2, 1], [-1.5, float("inf")])
    found["BYTES"] = tensor("BYTES", [2, 1], ["", "größer\0"])
    return found


def _step(value: int, seconds: float = 0.0) -> Mapping[str, Tensor]:
    return {
        "VALUE": tensor("INT32", [1, 1], [value]),
        "SECONDS": tensor("FP32", [1, 1], [seconds]),
    }


def _count(*values: int, seconds: float = 0.0) -> InferenceRequest:
    steps = [_step(value) for value in values[:-1]]
    return InferenceRequest("counter", (*steps, _step(values[-1], seconds)), stateful=True)


def _chat(tokens: int = 4, delay_ms: int = 0) -> InferenceRequest:
    parameters = {"max_tokens": tokens, "temperature": 0, "delay_ms": delay_ms}
    inputs = {
        "text_input": tensor("BYTES", [1], ["Hello"]),
        "stream": tensor("BOOL", [1], [True]),
        "sampling_parameters": tensor("BYTES", [1], [json.dumps(parameters)]),
    }
    return InferenceRequest("tinychat", (inputs,), decoupled=True)


def _counted(question: InferenceRequest) -> Answer:
    values = [int(step["VALUE"].array.flat[0]) for step in question.steps]
    if min(values) < 0:
        raise Rejected("INTERNAL: negative")
    if any(step["SECONDS"].array.flat[0] > 1 for step in question.steps):
        raise DeadlineExceeded("no answer in time")
    return Answer({"SUM": tensor("INT32", [1, 1], [sum(values)])}, responses=len(values))


def _fake() -> FakeTriton:
    types = [TensorSpec(name, name, (-1, -1)) for name in DATATYPES]
    unused = TensorSpec("UNUSED", "FP32", (-1, 2, 3), optional=True)
    numbers = (TensorSpec("VALUE", "INT32", (-1, 1)), TensorSpec("SECONDS", "FP32", (-1, 1)))
    text = TensorSpec("text_output", "BYTES", (-1,))
    return FakeTriton(
        SystemClock(),
        FakeModel(
            ModelDescription(
                name="echo_types",
                versions=("1",),
                config=b"x",
                inputs=(*types, unused),
                outputs=tuple(types),
                max_batch_size=4,
                priority_levels=2,
            ),
            echo,
        ),
        FakeModel(
            ModelDescription(
                "counter", ("1",), stateful=True, inputs=numbers, outputs=(), max_batch_size=1
            ),
            _counted,
        ),
        FakeModel(
            ModelDescription("tinychat", ("1",), decoupled=True, outputs=(text,)),
            Answer({"text_output": tensor("BYTES", [1], ["One slow reply may"])}, 4, 0.1, 0.2),
        ),
    )


@pytest.fixture(params=["fake", "real"])
async def triton(request: pytest.FixtureRequest) -> AsyncIterator[TritonApi]:
    if request.param == "fake":
        yield _fake()
        return
    server: TritonServer = request.getfixturevalue("triton_server")
    async with Triton(server.grpc) as client:
        yield client


@pytest.fixture
async def real(triton_server: TritonServer) -> AsyncIterator[Triton]:
    async with Triton(triton_server.grpc) as client:
        yield client


async def test_the_server_introduces_itself(triton: TritonApi) -> None:
    await triton.connect(LONG)
    assert await triton.server_live(LONG)
    assert await triton.server_ready(LONG)
    assert (await triton.server_version(LONG)).startswith("2.")


@pytest.mark.parametrize(
    ("model", "version", "ready"),
    [("counter", "", True), ("counter", "1", True), ("counter", "2", False), ("none", "", False)],
)
async def test_which_models_are_ready(
    triton: TritonApi, model: str, version: str, ready: bool
) -> None:
    assert await triton.model_ready(model, LONG, version) is ready


async def test_a_description_has_tensors_batches_and_priorities(triton: TritonApi) -> None:
    found = await triton.describe("echo_types", LONG)
    assert found.versions == ("1",)
    assert found.config
    assert (found.decoupled, found.stateful) == (False, False)
    assert (found.max_batch_size, found.priority_levels) == (4, 2)
    assert set(found.outputs) == {TensorSpec(name, name, (-1, -1)) for name in DATATYPES}
    unused = TensorSpec("UNUSED", "FP32", (-1, 2, 3), optional=True)
    assert set(found.inputs) == {*found.outputs, unused}


async def test_a_description_shows_sequences_and_streams(triton: TritonApi) -> None:
    counter, chat = await triton.describe("counter", LONG), await triton.describe("tinychat", LONG)
    assert (counter.stateful, counter.decoupled) == (True, False)
    assert (chat.stateful, chat.decoupled) == (False, True)
    assert (chat.max_batch_size, chat.priority_levels) == (0, 0)
    assert [(each.name, each.shape) for each in chat.outputs] == [("text_output", (-1,))]


async def test_every_datatype_round_trips(triton: TritonApi) -> None:
    inputs = _everything()
    answer = await triton.infer(
        InferenceRequest("echo_types", (inputs,), version="1", priority=2), LONG
    )
    assert answer.outputs.keys() == inputs.keys()
    for name, sent in inputs.items():
        came = answer.outputs[name]
        assert came.datatype == sent.datatype == name
        assert came.array.dtype == sent.array.dtype
        np.testing.assert_array_equal(came.array, sent.array)
    assert answer.responses == 1


async def test_the_responses_of_a_stream_are_joined_and_timed(triton: TritonApi) -> None:
    answer = await triton.infer(_chat(4, delay_ms=5), LONG)
    assert answer.outputs["text_output"].array.tolist() == [b"One slow reply may"]
    assert answer.responses == 4
    assert 0 < answer.first < answer.seconds


async def test_each_sequence_is_sent_whole_and_starts_with_new_state(triton: TritonApi) -> None:
    for _ in range(2):
        answer = await triton.infer(_count(1, 2, 3), LONG)
        assert answer.outputs["SUM"].array.tolist() == [[6]]
        assert answer.responses == 3


async def test_an_invalid_request_is_rejected(triton: TritonApi) -> None:
    with pytest.raises(Rejected):
        await triton.describe("none", LONG)
    with pytest.raises(Rejected):
        await triton.infer(InferenceRequest("none", ({},)), LONG)
    with pytest.raises(Rejected, match="negative"):
        await triton.infer(_count(-1), LONG)


async def test_an_answer_after_the_deadline_is_an_error(triton: TritonApi) -> None:
    with pytest.raises(DeadlineExceeded):
        await triton.infer(_count(1, seconds=1.5), 0.2)


async def test_statistics_count_inferences(triton: TritonApi) -> None:
    before = await _of(triton, "echo_types")
    for _ in range(2):
        await triton.infer(InferenceRequest("echo_types", (_everything(),)), LONG)
    after = await _when_executed(triton, "echo_types", before.executions + 2)
    assert after.executions == before.executions + 2
    assert after.successes == before.successes + 2
    assert after.inferences >= before.inferences + 2  # the fake has no batches
    assert after.compute_seconds > before.compute_seconds
    assert after.version == "1"


async def test_a_rejected_request_counts_as_executed_and_not_as_failed(triton: TritonApi) -> None:
    """At least in the Python backend, so the statistics do not show such failures."""
    before = await _of(triton, "counter")
    with pytest.raises(Rejected):
        await triton.infer(_count(-1), LONG)
    after = await _when_executed(triton, "counter", before.executions + 1)
    assert after.failures == before.failures
    assert after.successes == after.executions


async def test_a_model_is_unloaded_and_loaded_again(triton: TritonApi) -> None:
    assert await _index(triton, "counter") == [("1", "READY", "")]
    try:
        await triton.unload_model("counter", LONG)
        assert not await triton.model_ready("counter", LONG)
        with pytest.raises(NotFound):
            await triton.describe("counter", LONG)
        async with asyncio.timeout(LONG):
            while await _index(triton, "counter") != [("1", "UNAVAILABLE", "unloaded")]:
                await asyncio.sleep(0.01)
        await triton.unload_model("counter", LONG)  # no error
    finally:
        await triton.load_model("counter", LONG)
    assert await triton.model_ready("counter", LONG)
    assert await _index(triton, "counter") == [("1", "READY", "")]
    assert (await triton.infer(_count(1, 2), LONG)).responses == 2
    await triton.load_model("counter", LONG)  # no error


async def test_the_counters_show_that_a_model_was_unloaded(triton: TritonApi) -> None:
    seen = Loads().after(by_name(await triton.statistics(LONG)))
    await triton.infer(_count(1), LONG)
    seen = seen.after(by_name(await triton.statistics(LONG)))
    assert seen.by_model["counter"] == 0
    await triton.unload_model("counter", LONG)
    gone = seen.after(by_name(await triton.statistics(LONG)))
    assert "counter" not in gone.by_model
    await triton.load_model("counter", LONG)
    assert gone.after(by_name(await triton.statistics(LONG))).by_model["counter"] == 1
    assert gone.by_model["echo_types"] == 0


async def test_an_unknown_model_is_not_found(triton: TritonApi) -> None:
    with pytest.raises(Rejected, match="failed to load 'none'"):
        await triton.load_model("none", LONG)
    await triton.unload_model("none", LONG)
    assert await _index(triton, "none") == []


async def _index(triton: TritonApi, model: str) -> list[tuple[str, str, str]]:
    found = await triton.repository_index(LONG)
    return [(each.version, each.state, each.reason) for each in found if each.name == model]


async def _when_executed(triton: TritonApi, model: str, executions: int) -> Statistics:
    """The statistics once they count so many executions, a moment after the answer."""
    async with asyncio.timeout(LONG):
        while (found := await _of(triton, model)).executions < executions:
            await asyncio.sleep(0.01)
    return found


async def _of(triton: TritonApi, model: str) -> Statistics:
    (found,) = [each for each in await triton.statistics(LONG) if each.model == model]
    return found


async def _at_rest(triton: TritonApi, model: str) -> Statistics:
    """The statistics once they have stopped changing."""
    found = await _of(triton, model)
    async with asyncio.timeout(LONG):
        while True:
            await asyncio.sleep(0.5)
            last, found = found, await _of(triton, model)
            if last == found:
                return found


# --- a real server only ---------------------------------------------------------------------


async def test_statistics_do_not_change_while_a_request_executes(real: Triton) -> None:
    before = await _at_rest(real, "counter")
    working = asyncio.create_task(real.infer(_count(1, seconds=3.0), LONG))
    await asyncio.sleep(0.5)
    assert await _of(real, "counter") == before
    assert not working.done()
    await working
    await _when_executed(real, "counter", before.executions + 1)


async def test_a_stream_is_counted_when_it_is_accepted_and_not_for_each_response(
    real: Triton,
) -> None:
    before = await _at_rest(real, "tinychat")
    streaming = asyncio.create_task(real.infer(_chat(tokens=30, delay_ms=100), LONG))
    during = await _when_executed(real, "tinychat", before.executions + 1)
    assert not streaming.done()
    await streaming
    assert during.executions == before.executions + 1
    assert await _of(real, "tinychat") == during
    assert during.responses == 0


@pytest.mark.parametrize("ending", ["a failing step", "a deadline", "a cancelled question"])
async def test_an_interrupted_sequence_is_ended(real: Triton, ending: str) -> None:
    """The model has one sequence slot: an open sequence would make all others wait."""
    if ending == "a failing step":
        with pytest.raises(Rejected):
            await real.infer(_count(1, -1, 1), LONG)
    elif ending == "a deadline":
        with pytest.raises(DeadlineExceeded):
            await real.infer(_count(1, 1, seconds=0.6), 0.3)
    else:
        asking = asyncio.create_task(real.infer(_count(1, 1, seconds=3.0), LONG))
        await asyncio.sleep(0.3)
        asking.cancel()
        await asyncio.wait({asking})
        assert asking.cancelled()
    answer = await real.infer(_count(5, 6), 20.0)
    assert answer.outputs["SUM"].array.tolist() == [[11]]


async def test_each_sequence_has_a_reserved_id_of_its_own(real: Triton) -> None:
    answers = [await real.infer(_count(1), LONG) for _ in range(3)]
    ids = {int(answer.outputs["SEQUENCE"].array.flat[0]) for answer in answers}
    assert len(ids) == 3
    assert ids <= set(RESERVED_IDS)


async def test_an_answer_above_the_size_limit_is_rejected(triton_server: TritonServer) -> None:
    async with Triton(triton_server.grpc, max_answer=300) as client:
        with pytest.raises(AnswerTooLarge):
            await client.infer(InferenceRequest("echo_types", (_everything(),)), LONG)
        with pytest.raises(AnswerTooLarge):  # no single response is above it
            await client.infer(_chat(tokens=400), LONG)
        assert (await client.infer(_count(1), LONG)).responses == 1


async def test_a_port_without_a_listener() -> None:
    async with Triton("127.0.0.1:1") as client:
        with pytest.raises(Unavailable, match="refused"):
            await client.connect(LONG)
        with pytest.raises(Unavailable):
            await client.server_live(LONG)
