"""Load on a mesh like that of its users: plain `tritonclient` over one gRPC address.

Closed loop: each client sends its next request when it has its answer, or after a pause. Every
answer is compared with that of the mesh's first Triton, which is sent each prompt once, directly.

Acts: asyncio, grpc, time, tritonclient.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import numpy as np
from tritonclient.grpc import aio
from tritonclient.utils import InferenceServerException

UNARY = "tinychat_unary"
STREAM = "tinychat"
_PROMPTS = ("Hello", "A model", "The primary", "When a request", "Every probe", "Traffic moves")
_DEADLINE = 30.0  # seconds; a request that takes longer has failed
_STREAM = {"max_tokens": 40, "temperature": 0, "delay_ms": 50}  # a generation of two seconds
_UNARY = {"max_tokens": 8, "temperature": 0}


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that failed or was wrong, `at` seconds on the monotonic clock."""

    at: float
    what: str


@dataclass(slots=True)
class LoadTally:
    """The outcomes of requests of one kind. `done` has when each was sent and its duration."""

    done: list[tuple[float, float]] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    wrong: list[Failure] = field(default_factory=list)

    @property
    def sent(self) -> int:
        """The number of requests that ended, whatever their outcome."""
        return len(self.done) + len(self.failed) + len(self.wrong)

    def between(self, start: float, end: float) -> "LoadTally":
        """The outcomes of the requests that ran within the span from `start` to `end`."""
        return LoadTally(
            [(sent, took) for sent, took in self.done if sent + took >= start and sent < end],
            [failure for failure in self.failed if start <= failure.at < end],
            [failure for failure in self.wrong if start <= failure.at < end],
        )

    def quantile(self, share: float) -> float:
        """The time in seconds that a `share` of the answered requests did not exceed; or NaN."""
        times = sorted(took for _, took in self.done)
        return times[min(len(times) - 1, int(len(times) * share))] if times else float("nan")

    @property
    def slowest(self) -> float:
        """The longest time in seconds until an answer, or NaN."""
        return max((took for _, took in self.done), default=float("nan"))


@dataclass(slots=True)
class Load:
    """Running load."""

    unary: LoadTally = field(default_factory=LoadTally)
    streams: LoadTally = field(default_factory=LoadTally)


@asynccontextmanager
async def load(
    address: str, reference: str, *, unary: int, streams: int, pause: float = 0.0
) -> AsyncIterator[Load]:
    """Keep `unary` + `streams` clients busy on `address` while the context lasts.

    At its end, requests in flight are finished and counted.

    Args:
        address: host:port that the clients talk to.
        reference: host:port of a Triton whose answers count as right.
        unary: clients that send one request after the other.
        streams: clients that run one generation after the other.
        pause: seconds between an answer and the client's next request.
    """
    running = Load()
    expected = await _expected(reference)
    ending = asyncio.Event()
    clients = [
        asyncio.create_task(_client(address, number, kind, tally, expected, ending, pause))
        for kind, tally, count in (
            (_ask, running.unary, unary),
            (_generate, running.streams, streams),
        )
        for number in range(count)
    ]
    try:
        yield running
    finally:
        ending.set()
        await asyncio.gather(*clients)


Answers = Mapping[tuple[str, str], str]
Question = Callable[[aio.InferenceServerClient, str], Awaitable[str]]


async def _client(
    address: str,
    number: int,
    question: Question,
    tally: LoadTally,
    expected: Answers,
    ending: asyncio.Event,
    pause: float,
) -> None:
    async with aio.InferenceServerClient(address) as client:
        turn = number
        while not ending.is_set():
            prompt = _PROMPTS[turn % len(_PROMPTS)]
            turn += 1
            sent = time.monotonic()
            try:
                answer = await question(client, prompt)
            except (InferenceServerException, grpc.aio.AioRpcError) as error:
                tally.failed.append(Failure(time.monotonic(), _complaint(error)))
                await asyncio.sleep(0.05)  # a client does not hammer after a failure
                continue
            if answer == expected[question.__name__, prompt]:
                tally.done.append((sent, time.monotonic() - sent))
            else:
                tally.wrong.append(Failure(time.monotonic(), f"{prompt!r} answered {answer!r}"))
            await asyncio.sleep(pause)


def _complaint(error: InferenceServerException | grpc.aio.AioRpcError) -> str:
    # tritonclient wraps gRPC's errors, except those of a stream.
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code()}: {error.details()}"
    return f"{error.status()}: {error.message()}"


async def _expected(reference: str) -> Answers:
    asked = [(question, prompt) for question in (_ask, _generate) for prompt in _PROMPTS]
    async with aio.InferenceServerClient(reference) as client:
        answers = await asyncio.gather(*(question(client, prompt) for question, prompt in asked))
    names = [(question.__name__, prompt) for question, prompt in asked]
    return dict(zip(names, answers, strict=True))


async def _ask(client: aio.InferenceServerClient, prompt: str) -> str:
    answer = await client.infer(UNARY, _inputs(prompt, _UNARY), client_timeout=_DEADLINE)
    return _text(answer)


async def _generate(client: aio.InferenceServerClient, prompt: str) -> str:
    """Run one generation; returns the text of all its responses."""

    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield {"model_name": STREAM, "inputs": _inputs(prompt, _STREAM, stream=True),
               "enable_empty_final_response": True}  # fmt: skip

    text, over = "", False
    try:
        async for result, error in client.stream_infer(requests(), stream_timeout=_DEADLINE):
            if error:
                raise error
            text += _text(result)
            over = result.get_response().parameters["triton_final_response"].bool_param
    except grpc.aio.AioRpcError:
        if not over:
            raise
    # Read to its end: Triton may leak a stream that is cancelled right after its last response.
    if over:
        return text
    raise InferenceServerException("the stream ended before its last response", "CUT")


def _inputs(
    prompt: str, sampling: Mapping[str, object], *, stream: bool = False
) -> list[aio.InferInput]:
    values = {
        "text_input": np.array([prompt.encode()], dtype=np.object_),
        "sampling_parameters": np.array([json.dumps(sampling).encode()], dtype=np.object_),
    }
    if stream:
        values["stream"] = np.array([True])
    inputs = []
    for name, value in values.items():
        tensor = aio.InferInput(name, [1], "BOOL" if value.dtype == np.bool_ else "BYTES")
        tensor.set_data_from_numpy(value)
        inputs.append(tensor)
    return inputs


def _text(result: Any) -> str:
    output = result.as_numpy("text_output")
    return "" if output is None else b"".join(output.flat).decode()
