"""Large headers and trailers, both ways, on a real Envoy: their client gets an error."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from tritonclient.grpc.service_pb2 import ModelInferRequest

from sidecar.xds.config.http2 import MAX_HEADER_FIELD_SIZE_KB, MAX_HEADERS_COUNT
from tests.support.soak import soak
from tests.support.triton_server import TritonServer
from tests.support.xds.control_plane import SERVICE
from tests.support.xds.grpc_clients import Load
from tests.support.xds.waiting import PATIENCE
from tests.support.xds.xds_rig import Rig

pytestmark = pytest.mark.integration

BAD = b"bad"
CODE = grpc.StatusCode
# Bytes of an error that quotes its request; the last is the most, with what is around it.
TEXTS = (1000, 70_000, 100_000, MAX_HEADER_FIELD_SIZE_KB * 1024 - 1000)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with Rig.running("DELTA_GRPC") as running:
        yield running


@pytest.fixture
def triton(tmp_path: Path) -> Iterator[TritonServer]:
    with TritonServer.running(tmp_path, "embedder") as server:
        yield server


async def failure(
    rig: Rig, request: bytes = BAD, metadata: tuple[tuple[str, str], ...] = ()
) -> tuple[grpc.StatusCode, str]:
    """How a request ends."""
    call = rig.client.infer(request, timeout=PATIENCE, metadata=metadata)
    return await call.code(), await call.details()


async def connections_lost(rig: Rig) -> int:
    """How many connections, of either side, Envoy has closed for what was said on them."""
    names = (
        f"cluster.{SERVICE}.upstream_cx_protocol_error",
        "http.triton.downstream_cx_protocol_error",
    )
    return sum([await rig.envoy.stat(name) for name in names])


async def ejections(rig: Rig) -> int:
    """How often Envoy would have liked to avoid somebody."""
    counter = "ejections_detected_consecutive_local_origin_failure"
    return await rig.envoy.stat(f"cluster.{SERVICE}.outlier_detection.{counter}")


@pytest.mark.parametrize("clients", [16, pytest.param(64, marks=soak)])
async def test_an_error_of_any_length_reaches_its_sender_and_hurts_no_other(
    rig: Rig, clients: int
) -> None:
    rig.a.fails = {BAD: CODE.INVALID_ARGUMENT}
    load = Load(rig.client, clients)
    for size in TEXTS:
        rig.a.error_text = "m" * size
        for _ in range(5):
            answers = await asyncio.gather(*(failure(rig) for _ in range(4)))
            assert {(code, len(text)) for code, text in answers} == {(CODE.INVALID_ARGUMENT, size)}
        await load.more(clients)
    await load.stop()
    assert load.failures == []
    assert set(load.answers) == {"a"}
    assert (await connections_lost(rig), await ejections(rig)) == (0, 0)


async def test_so_is_the_error_of_a_stream(rig: Rig) -> None:
    running = rig.client.stream(iter([b"2"]), timeout=PATIENCE)
    assert await running.read() == b"a:0"
    rig.a.fails, rig.a.error_text = {BAD: CODE.INVALID_ARGUMENT}, "m" * 100_000
    call = rig.client.stream(iter([BAD]), timeout=PATIENCE)
    assert await call.code() == CODE.INVALID_ARGUMENT
    assert await call.details() == rig.a.error_text
    rig.a.gate.set()
    assert await running.read() == b"a:1"
    assert (await connections_lost(rig), await ejections(rig)) == (0, 0)


async def test_a_real_triton_quotes_a_name_of_any_length(triton: TritonServer, rig: Rig) -> None:
    rig.a.port = int(triton.grpc.rpartition(":")[2])
    rig.control_plane.publish(rig.a.instance(), leader="a")
    await rig.settled(1)
    request = ModelInferRequest(model_name="m" * 100_000).SerializeToString()
    answers = await asyncio.gather(*(failure(rig, request) for _ in range(16)))
    assert {code for code, _ in answers} == {CODE.NOT_FOUND}
    assert all("m" * 100_000 in text for _, text in answers)
    assert (await connections_lost(rig), await ejections(rig)) == (0, 0)


@pytest.mark.parametrize(
    ("clients", "code"),
    [(16, CODE.INVALID_ARGUMENT), (64, CODE.NOT_FOUND), (16, CODE.UNAVAILABLE)],
)
async def test_beyond_that_the_sender_gets_the_beginning(
    rig: Rig, clients: int, code: grpc.StatusCode
) -> None:
    """It ends two connections, and what else was on them is sent again."""
    rig.a.fails = rig.b.fails = {BAD: code}
    rig.a.error_text = rig.b.error_text = "\N{SNOWMAN}" * 200_000
    load = Load(rig.client, clients)
    for _ in range(5):
        answers = await asyncio.gather(*(failure(rig) for _ in range(2)))
        assert {found for found, _ in answers} == {code}, answers
        assert all(0 < len(text) <= 4096 for _, text in answers)
        assert all(rig.a.error_text.startswith(text) for _, text in answers)
        await load.more(clients)
    await load.stop()
    assert load.failures == []


async def test_nor_is_it_tried_more_often_than_what_takes_servers_down(rig: Rig) -> None:
    rig.a.fails = rig.b.fails = {BAD: CODE.NOT_FOUND}
    rig.a.error_text = rig.b.error_text = "m" * 300_000
    code, text = await failure(rig)
    assert (code, text) == (CODE.NOT_FOUND, "m" * len(text))
    # Twice by Envoy, once on trial.
    assert (rig.a.asked, rig.b.asked) in ((2, 1), (1, 2))
    assert await failure(rig, b"x") == (CODE.OK, "")
    assert rig.control_plane.publication.suspects.value == frozenset()


async def test_so_does_the_sender_of_a_stream(rig: Rig) -> None:
    rig.a.fails = rig.b.fails = {BAD: CODE.NOT_FOUND}
    rig.a.error_text = rig.b.error_text = "m" * 300_000
    call = rig.client.stream(iter([BAD]), timeout=PATIENCE)
    assert await call.code() == CODE.NOT_FOUND
    assert set(await call.details()) == {"m"}


async def test_many_trailers_pass(rig: Rig) -> None:
    rig.a.fails = {BAD: CODE.INVALID_ARGUMENT}
    rig.a.trailers = MAX_HEADERS_COUNT // 2
    code, _ = await failure(rig)
    assert code == CODE.INVALID_ARGUMENT


@pytest.mark.parametrize("pieces", [1, 32])
@pytest.mark.parametrize("size", [63_000, 90_000, 240_000])
async def test_too_large_metadata_is_refused_with_the_servers_own_message(
    rig: Rig, size: int, pieces: int
) -> None:
    load = Load(rig.client, 16)
    await load.more(50)
    metadata = tuple((f"key-{number}", "v" * (size // pieces)) for number in range(pieces))
    code, text = await failure(rig, b"x", metadata)
    assert code == CODE.RESOURCE_EXHAUSTED
    assert "metadata" in text
    await load.more(50)
    await load.stop()
    assert load.failures == []
    assert (await connections_lost(rig), await ejections(rig)) == (0, 0)


async def test_many_entries_pass(rig: Rig) -> None:
    assert await rig.client.who(b"x", **{f"key_{number}": "v" for number in range(150)}) == "a"


async def test_beyond_what_envoy_takes_the_one_request_ends(rig: Rig) -> None:
    load = Load(rig.client, 16)
    await load.more(50)
    metadata = tuple((f"key-{number}", "v") for number in range(MAX_HEADERS_COUNT + 1))
    code, _ = await failure(rig, b"x", metadata)
    assert code == CODE.INTERNAL
    await load.more(50)
    await load.stop()
    assert load.failures == []
    assert (await connections_lost(rig), await ejections(rig)) == (0, 0)
