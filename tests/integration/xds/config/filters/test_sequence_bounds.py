"""How many sequences Envoy keeps, and for how long, with a real Envoy and fake Tritons."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import grpc.aio
import pytest
from tritonclient.grpc import service_pb2

from sidecar.local.planning.ports import reserve
from sidecar.traffic.policy import Affinity
from tests.support.xds.control_plane import UNHURRIED
from tests.support.xds.grpc_clients import Client
from tests.support.xds.waiting import PATIENCE, eventually
from tests.support.xds.wire import Wire
from tests.support.xds.xds_rig import Rig

pytestmark = pytest.mark.integration
HEADER = "x-sequence"
METADATA = [(HEADER, "7")]
MUST_START = b"must specify the START flag on the first request of the sequence"
# More names than the memory holds; each `~` takes three bytes in a key.
LONG_NAMES = tuple(f"{number:06}" + 980 * "~" for number in range(11_500))


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with with_affinity(workers=2) as made:
        yield made


@asynccontextmanager
async def with_affinity(workers: int) -> AsyncIterator[Rig]:
    """One instance, and an Envoy with sequence affinity."""
    async with Rig.running("DELTA_GRPC", workers) as made:
        policy = replace(UNHURRIED, affinity=Affinity(sequence_header=HEADER))
        made.control_plane.publish(made.a.instance(), leader="a", policy=policy)
        await made.settled(1)
        yield made
        assert await made.envoy.stat("http.triton.lua.sequences.errors") == 0


def sequence_request(name: str, *, start: bool = False, size: int = 0) -> bytes:
    """A request of a sequence, with a tensor of `size` bytes."""
    request = service_pb2.ModelInferRequest(model_name="sums")
    request.parameters["sequence_id"].string_param = name
    if start:
        request.parameters["sequence_start"].bool_param = True
    request.raw_input_contents.append(bytes(size))
    return bytes(request.SerializeToString())


async def infer(rig: Rig, request: bytes) -> bytes:
    """The response to a unary request."""
    return bytes(await rig.client.infer(request, metadata=METADATA, timeout=PATIENCE))


async def received(rig: Rig, requests: Iterable[bytes]) -> list[bytes]:
    """The requests of a stream as the server received them."""
    stream = rig.client.stream(iter(requests), metadata=METADATA, timeout=PATIENCE)
    return [bytes(each) async for each in stream]


async def test_a_worker_keeps_the_most_recently_used_sequences(rig: Rig) -> None:
    await infer(rig, sequence_request("first", start=True))
    await infer(rig, sequence_request("first"))
    for at in range(0, len(LONG_NAMES), 100):
        some = [sequence_request(name, start=True) for name in LONG_NAMES[at : at + 100]]
        await asyncio.gather(*(infer(rig, each) for each in some))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await infer(rig, sequence_request("first"))
    assert MUST_START.decode() in str(caught.value.details())
    for name in LONG_NAMES[-100:]:
        await infer(rig, sequence_request(name))


async def test_a_stream_keeps_the_most_recently_used_sequences(rig: Rig) -> None:
    begun = [sequence_request("first", start=True), sequence_request("first")]
    others = [sequence_request(name, start=True) for name in LONG_NAMES]
    last = [sequence_request(name) for name in LONG_NAMES[-100:]]
    found = await received(rig, [*begun, *others, *last, sequence_request("first")])
    assert found[:-1] == [*begun, *others, *last]
    assert MUST_START in found[-1]


async def test_requests_of_all_sizes_pass_in_a_stream(rig: Rig) -> None:
    """Many requests in one frame, and one request in many frames."""
    sizes = (0, 1, 100, 20_000, 0, 1_000_000, 3)
    some = [
        sequence_request("7", start=True),
        *(sequence_request("7", size=size) for size in sizes),
    ]
    requests = [*some, *(10_000 * [b""]), *some, *(2000 * [sequence_request("7")]), *some]
    assert await received(rig, requests) == requests


async def test_a_reused_client_port_is_another_connection() -> None:
    """With one worker, because another one would reject the sequence anyway."""
    async with with_affinity(workers=1) as rig:
        with reserve(1) as [port]:
            wire = Wire(rig.envoy.port, source=port)
            address = await wire.listen()
            await send_over_a_new_connection(
                address, sequence_request("7", start=True), sequence_request("7")
            )
            wire.drop()
            await eventually(lambda: no_client(rig), "Envoy knows that the client is gone")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await send_over_a_new_connection(address, sequence_request("7"))
            assert MUST_START.decode() in str(caught.value.details())
            wire.close()


async def send_over_a_new_connection(port: int, *requests: bytes) -> None:
    """Send requests over a new connection."""
    client = Client(port)
    try:
        for each in requests:
            await client.infer(each, metadata=METADATA, timeout=PATIENCE)
    finally:
        await client.close()


async def no_client(rig: Rig) -> bool:
    """Whether no client is connected."""
    return not await rig.envoy.stat("http.triton.downstream_cx_active")


async def test_the_length_of_the_header_is_limited_as_that_of_a_name(rig: Rig) -> None:
    request, longer = sequence_request("7", start=True), [(HEADER, 1100 * "7")]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rig.client.infer(request, metadata=longer, timeout=PATIENCE)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "1024 bytes" in str(caught.value.details())
