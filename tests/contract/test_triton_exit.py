"""A Triton that was told to stop and still has requests says so: it does not hang."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from sidecar.errors import Exiting, Refused
from sidecar.triton import Triton
from sidecar.triton_api import Question
from sidecar.triton_tensors import tensor
from tests.triton_server import TritonServer

pytestmark = pytest.mark.contract
LONG = 60.0  # seconds; machines are shared
INPUTS = {"VALUE": tensor("INT32", [1, 1], [7]), "SECONDS": tensor("FP32", [1, 1], [10.0])}
STREAM = Question("paused_stream", (INPUTS,), decoupled=True)


async def for_ever(call: Callable[[float], Awaitable[object]]) -> None:
    while True:
        await call(LONG)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TritonServer]:
    patient = ("--exit-timeout-secs=60",)
    with TritonServer.running(tmp_path, "paused_stream", options=patient) as found:
        yield found


async def test_a_triton_that_stops_in_order_says_so_and_finishes_what_it_has(
    server: TritonServer,
) -> None:
    async with Triton(server.grpc) as door, asyncio.timeout(2 * LONG):
        stream = asyncio.create_task(door.infer(STREAM, LONG))
        while not any(each.executions for each in await door.statistics(LONG)):
            await asyncio.sleep(0.1)
        server.process.signal(signal.SIGTERM)
        for call in (door.server_live, door.server_ready):
            with pytest.raises(Exiting, match="UNAVAILABLE: Server exiting"):
                await for_ever(call)
        assert (await stream).responses == 1
        with pytest.raises(Refused):
            await for_ever(door.connect)
