"""Triton's metrics as the fallback for NVML, over real HTTP."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from sidecar.gpu.api import GpuReading, Selection
from sidecar.gpu.triton_metrics import TritonMetrics, parse_gpu_metrics
from sidecar.local.planning.ports import reserve
from sidecar.runtime.errors import AnswerTooLarge, DeadlineExceeded, Rejected, Unavailable

METRICS = """\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="tinychat",version="1"} 12
# HELP nv_gpu_utilization GPU utilization rate [0.0 - 1.0)
# TYPE nv_gpu_utilization gauge
nv_gpu_utilization{gpu_uuid="GPU-a"} 0.83
nv_gpu_utilization{gpu_uuid="GPU-b"} 0
# HELP nv_gpu_memory_total_bytes GPU total memory, in bytes
# TYPE nv_gpu_memory_total_bytes gauge
nv_gpu_memory_total_bytes{gpu_uuid="GPU-a"} 16945512448
nv_gpu_memory_total_bytes{gpu_uuid="GPU-b"} 1.6945512448e+10
# HELP nv_gpu_memory_used_bytes GPU used memory, in bytes
# TYPE nv_gpu_memory_used_bytes gauge
nv_gpu_memory_used_bytes{gpu_uuid="GPU-a"} 16000000000
# HELP nv_gpu_power_usage GPU power usage in watts
# TYPE nv_gpu_power_usage gauge
nv_gpu_power_usage{gpu_uuid="GPU-a"} NaN
"""
A = GpuReading(
    uuid="GPU-a",
    source="triton",
    memory_free=945512448,
    memory_total=16945512448,
    utilization=0.83,
)
B = GpuReading(uuid="GPU-b", source="triton", memory_total=16945512448, utilization=0.0)


def test_memory_and_utilization_are_read_and_missing_values_are_none() -> None:
    assert parse_gpu_metrics(METRICS) == (A, B)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nv_inference_count 3\n",
        "nv_gpu_utilization 1\n",
        'nv_gpu_utilization{gpu_uuid="a"} NaN\n',
    ],
)
def test_without_gpu_metrics_there_is_no_gpu(text: str) -> None:
    assert parse_gpu_metrics(text) == ()


@pytest.mark.parametrize(
    "text",
    [
        "nv_gpu_utilization{gpu_uuid=",
        'nv_gpu_utilization{gpu_uuid="a"} lots',
        "nv_gpu_utilization{",
    ],
)
def test_invalid_metrics_are_rejected(text: str) -> None:
    with pytest.raises(Rejected, match="expected Prometheus' text format"):
        parse_gpu_metrics(text)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """The address of a server that answers `/metrics`."""
    app = web.Application()
    app.router.add_get("/metrics", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        yield f"{host}:{port}"
    finally:
        await runner.cleanup()


def _answering(text: str, status: int = 200) -> Handler:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(text=text, status=status)

    return answer


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(), (A, B)),
        (Selection(("GPU-b",)), (B,)),
        (Selection(("0", "1")), (A, B)),
        (Selection(("0", "GPU-a")), (A,)),
    ],
)
async def test_the_gpus_of_a_triton(selection: Selection, expected: tuple[GpuReading, ...]) -> None:
    async with serving(_answering(METRICS)) as address:
        assert await TritonMetrics(address, selection).read(30) == expected


async def test_an_error_status_is_an_error() -> None:
    async with serving(_answering("no", 500)) as address:
        with pytest.raises(Rejected, match="HTTP status 500"):
            await TritonMetrics(address).read(30)


async def test_an_unreachable_server_is_unavailable() -> None:
    with reserve(1) as (port,), pytest.raises(Unavailable):
        await TritonMetrics(f"127.0.0.1:{port}").read(30)


async def test_an_endless_answer_is_cut_off() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"#" * 2**16)

    async with serving(endless) as address:
        with pytest.raises(AnswerTooLarge):
            await TritonMetrics(address).read(30)


async def test_a_slow_answer_has_a_deadline() -> None:
    async def trickling(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"#")
            await asyncio.sleep(0.01)

    async with serving(trickling) as address:
        with pytest.raises(DeadlineExceeded):
            await TritonMetrics(address).read(0.1)
