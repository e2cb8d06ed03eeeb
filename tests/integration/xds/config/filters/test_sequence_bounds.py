"""How many sequences Envoy remembers, and for how long: real Envoy, fake Tritons."""

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
# More names, of bytes each of which takes three in a key, than a memory has room for.
LONG_NAMES = tuple(f"{number:06}" + 980 * "~" for number in range(11_500))


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with followed(workers=2) as made:
        yield made


@asynccontextmanager
async def followed(workers: int) -> AsyncIterator[Rig]:
    """One instance, and an Envoy that follows its sequences."""
    async with Rig.running("DELTA_GRPC", workers) as made:
        policy = replace(UNHURRIED, affinity=Affinity(sequence_header=HEADER))
        made.control_plane.publish(made.a.instance(), leader="a", policy=policy)
        await made.settled(1)
        yield made
        assert await made.envoy.stat("http.triton.lua.sequences.errors") == 0


def asked(name: str, *, start: bool = False, size: int = 0) -> bytes:
    """A request of a sequence, with a tensor of so many bytes."""
    request = service_pb2.ModelInferRequest(model_name="sums")
    request.parameters["sequence_id"].string_param = name
    if start:
        request.parameters["sequence_start"].bool_param = True
    request.raw_input_contents.append(bytes(size))
    return bytes(request.SerializeToString())


async def infer(rig: Rig, request: bytes) -> bytes:
    """The answer to a unary request."""
    return bytes(await rig.client.infer(request, metadata=METADATA, timeout=PATIENCE))


async def come_back(rig: Rig, requests: Iterable[bytes]) -> list[bytes]:
    """What has become of the requests of a stream by the time they arrive."""
    stream = rig.client.stream(iter(requests), metadata=METADATA, timeout=PATIENCE)
    return [bytes(each) async for each in stream]


async def test_a_worker_keeps_the_sequences_used_last(rig: Rig) -> None:
    await infer(rig, asked("first", start=True))
    await infer(rig, asked("first"))
    for at in range(0, len(LONG_NAMES), 100):
        some = [asked(name, start=True) for name in LONG_NAMES[at : at + 100]]
        await asyncio.gather(*(infer(rig, each) for each in some))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await infer(rig, asked("first"))
    assert MUST_START.decode() in str(caught.value.details())
    for name in LONG_NAMES[-100:]:
        await infer(rig, asked(name))


async def test_a_stream_keeps_the_sequences_used_last(rig: Rig) -> None:
    begun = [asked("first", start=True), asked("first")]
    others = [asked(name, start=True) for name in LONG_NAMES]
    last = [asked(name) for name in LONG_NAMES[-100:]]
    found = await come_back(rig, [*begun, *others, *last, asked("first")])
    assert found[:-1] == [*begun, *others, *last]
    assert MUST_START in found[-1]


async def test_the_requests_of_a_stream_pass_whatever_their_sizes(rig: Rig) -> None:
    """Many in one frame, and one in many."""
    sizes = (0, 1, 100, 20_000, 0, 1_000_000, 3)
    some = [asked("7", start=True), *(asked("7", size=size) for size in sizes)]
    requests = [*some, *(10_000 * [b""]), *some, *(2000 * [asked("7")]), *some]
    assert await come_back(rig, requests) == requests


async def test_a_port_that_is_used_again_is_another_connection() -> None:
    """With one worker: what another one knows would be refused anyway."""
    async with followed(workers=1) as rig:
        with reserve(1) as [port]:
            wire = Wire(rig.envoy.port, source=port)
            address = await wire.listen()
            await over(address, asked("7", start=True), asked("7"))
            wire.drop()
            await eventually(lambda: nobody(rig), "Envoy knows that the client is gone")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await over(address, asked("7"))
            assert MUST_START.decode() in str(caught.value.details())
            wire.close()


async def over(port: int, *requests: bytes) -> None:
    """Requests over a connection of their own."""
    client = Client(port)
    try:
        for each in requests:
            await client.infer(each, metadata=METADATA, timeout=PATIENCE)
    finally:
        await client.close()


async def nobody(rig: Rig) -> bool:
    """Whether no client is connected."""
    return not await rig.envoy.stat("http.triton.downstream_cx_active")


async def test_a_header_counts_as_one_of_the_names(rig: Rig) -> None:
    request, longer = asked("7", start=True), [(HEADER, 1100 * "7")]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rig.client.infer(request, metadata=longer, timeout=PATIENCE)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "1024 bytes" in str(caught.value.details())
