"""Large headers and trailers on a real Envoy: at most their own client gets an error."""

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
# Lengths in bytes of an error text; the last one is the most that fits with the other trailers.
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
    """The status and message of a request."""
    call = rig.client.infer(request, timeout=PATIENCE, metadata=metadata)
    return await call.code(), await call.details()


async def connections_lost(rig: Rig) -> int:
    """How many connections Envoy has closed because of protocol errors, on both sides."""
    names = (
        f"cluster.{SERVICE}.upstream_cx_protocol_error",
        "http.triton.downstream_cx_protocol_error",
    )
    return sum([await rig.envoy.stat(name) for name in names])


async def ejections(rig: Rig) -> int:
    """How many ejections Envoy has detected, whether or not it enforced them."""
    counter = "ejections_detected_consecutive_local_origin_failure"
    return await rig.envoy.stat(f"cluster.{SERVICE}.outlier_detection.{counter}")


@pytest.mark.parametrize("clients", [16, pytest.param(64, marks=soak)])
async def test_a_long_error_reaches_its_client_and_affects_no_other(rig: Rig, clients: int) -> None:
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


async def test_a_long_error_of_a_stream_reaches_its_client_and_affects_no_other(rig: Rig) -> None:
    running = rig.client.stream(iter([b"2"]), timeout=PATIENCE)
    assert await running.read() == b"a:0"
    rig.a.fails, rig.a.error_text = {BAD: CODE.INVALID_ARGUMENT}, "m" * 100_000
    call = rig.client.stream(iter([BAD]), timeout=PATIENCE)
    assert await call.code() == CODE.INVALID_ARGUMENT
    assert await call.details() == rig.a.error_text
    rig.a.gate.set()
    assert await running.read() == b"a:1"
    assert (await connections_lost(rig), await ejections(rig)) == (0, 0)


async def test_a_long_error_of_a_real_triton_reaches_its_client(
    triton: TritonServer, rig: Rig
) -> None:
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
async def test_an_error_above_the_limit_is_truncated(
    rig: Rig, clients: int, code: grpc.StatusCode
) -> None:
    """The error ends two connections, and other requests on them are retried."""
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


async def test_a_request_with_an_error_above_the_limit_gets_three_attempts(rig: Rig) -> None:
    rig.a.fails = rig.b.fails = {BAD: CODE.NOT_FOUND}
    rig.a.error_text = rig.b.error_text = "m" * 300_000
    code, text = await failure(rig)
    assert (code, text) == (CODE.NOT_FOUND, "m" * len(text))
    # Two attempts by Envoy, and one trial.
    assert (rig.a.asked, rig.b.asked) in ((2, 1), (1, 2))
    assert await failure(rig, b"x") == (CODE.OK, "")
    assert rig.control_plane.publication.suspects.value == frozenset()


async def test_an_error_of_a_stream_above_the_limit_is_truncated(rig: Rig) -> None:
    rig.a.fails = rig.b.fails = {BAD: CODE.NOT_FOUND}
    rig.a.error_text = rig.b.error_text = "m" * 300_000
    call = rig.client.stream(iter([BAD]), timeout=PATIENCE)
    assert await call.code() == CODE.NOT_FOUND
    assert set(await call.details()) == {"m"}


async def test_an_error_with_many_trailers_passes(rig: Rig) -> None:
    rig.a.fails = {BAD: CODE.INVALID_ARGUMENT}
    rig.a.trailers = MAX_HEADERS_COUNT // 2
    code, _ = await failure(rig)
    assert code == CODE.INVALID_ARGUMENT


@pytest.mark.parametrize("pieces", [1, 32])
@pytest.mark.parametrize("size", [63_000, 90_000, 240_000])
async def test_metadata_above_tritons_limit_is_rejected_with_its_message(
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


async def test_a_request_with_many_headers_passes(rig: Rig) -> None:
    assert (
        await rig.client.answered_by(b"x", **{f"key_{number}": "v" for number in range(150)}) == "a"
    )


async def test_a_request_with_more_headers_than_envoy_accepts_fails_alone(rig: Rig) -> None:
    load = Load(rig.client, 16)
    await load.more(50)
    metadata = tuple((f"key-{number}", "v") for number in range(MAX_HEADERS_COUNT + 1))
    code, _ = await failure(rig, b"x", metadata)
    assert code == CODE.INTERNAL
    await load.more(50)
    await load.stop()
    assert load.failures == []
    assert (await connections_lost(rig), await ejections(rig)) == (0, 0)
