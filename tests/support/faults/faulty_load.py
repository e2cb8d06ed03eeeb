"""Clients of the models `faulty` and `faulty_stream` that know the right answers."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import grpc.aio
import numpy as np
from tritonclient.grpc import aio
from tritonclient.utils import InferenceServerException

from sidecar.drill.misbehaving_models import STREAM, UNARY
from sidecar.local.load import Failure, Load, LoadTally
from tests.support.mesh.mesh_clients import text

_PROMPTS = ("One tree", "Two trees", "Three trees", "A forest")
_DEADLINE = 60.0  # seconds until a client gives up; nothing that is to be retried takes as long
_SHOWN = 80  # characters of a wrong answer
_REFUSED = 0.02  # seconds that a client waits after an error

Ask = Callable[[aio.InferenceServerClient, str], Awaitable[str]]
Right = Mapping[tuple[str, str], str]


@asynccontextmanager
async def faulty_load(
    address: str, reference: str, *, unary: int, streams: int, pause: float = 0.0
) -> AsyncIterator[Load]:
    """Keep clients busy on `address`, each with its next question `pause` s after its answer.

    `reference` is the address of a Triton that is well at the start. When the context ends,
    requests in flight are finished and counted.
    """
    running, ending = Load(), asyncio.Event()
    right = await _right(reference)
    clients = [
        asyncio.create_task(_client(address, ask, tally, right, ending, pause))
        for ask, tally, count in (
            (_infer, running.unary, unary),
            (_stream, running.streams, streams),
        )
        for _ in range(count)
    ]
    try:
        yield running
    finally:
        ending.set()
        await asyncio.gather(*clients)


async def _right(reference: str) -> Right:
    asked = [(ask, prompt) for ask in (_infer, _stream) for prompt in _PROMPTS]
    async with aio.InferenceServerClient(reference) as client:
        return {(ask.__name__, prompt): await ask(client, prompt) for ask, prompt in asked}


async def _client(
    address: str, ask: Ask, tally: LoadTally, right: Right, ending: asyncio.Event, pause: float
) -> None:
    turn = 0
    async with aio.InferenceServerClient(address) as client:
        while not ending.is_set():
            prompt = _PROMPTS[turn % len(_PROMPTS)]
            turn += 1
            sent = time.monotonic()
            try:
                answer = await ask(client, prompt)
            except (InferenceServerException, grpc.aio.AioRpcError) as error:
                tally.failed.append(Failure(time.monotonic(), str(error)))
                await asyncio.sleep(_REFUSED)
                continue
            if answer == right[ask.__name__, prompt]:
                tally.done.append((sent, time.monotonic() - sent))
            else:
                wrong = f"{prompt!r} answered {answer[:_SHOWN]!r}"
                tally.wrong.append(Failure(time.monotonic(), wrong))
            await asyncio.sleep(pause)


async def _infer(client: aio.InferenceServerClient, prompt: str) -> str:
    result = await client.infer(UNARY, [text("text", prompt)], client_timeout=_DEADLINE)
    return f"{_text(result)} {_numbers(result)}"


async def _stream(client: aio.InferenceServerClient, prompt: str) -> str:
    """The text of all responses, which may be none at all; Triton then ends the stream."""

    async def requests() -> AsyncIterator[dict[str, object]]:
        yield {"model_name": STREAM, "inputs": [text("text", prompt)]}

    said: list[str] = []
    async for result, error in client.stream_infer(requests(), stream_timeout=_DEADLINE):
        if error:
            raise error
        said.append(_text(result))
    return "".join(said)


def _text(result: aio.InferResult) -> str:
    answer = result.as_numpy("answer")
    return "" if answer is None else b"".join(answer.flat).decode()


def _numbers(result: aio.InferResult) -> list[float]:
    vector = result.as_numpy("vector")
    return [] if vector is None else np.asarray(vector, np.float64).tolist()
