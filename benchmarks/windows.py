"""The cost of HTTP/2 windows: Envoy with its defaults and with ours, in turns on the same servers.

Envoy's defaults are 16 MiB for a stream and 24 MiB for a connection; `--window` is our stream's.
CPU time is Envoy's alone, and hardly depends on other load on the machine.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import grpc.aio

from benchmarks import report
from benchmarks.report import ms, quantile
from sidecar.local.planning import ports
from sidecar.local.planning.plan import Probe
from sidecar.local.processes import part_probe
from sidecar.local.programs import parts
from sidecar.traffic.policy import Connection, TrafficPolicy
from sidecar.xds.catalog.catalog import Catalog, Instance, Leader, ServiceCatalog
from sidecar.xds.config.capabilities import Capabilities
from sidecar.xds.config.edge import Edge
from sidecar.xds.config.snapshot import build
from tests.checks.validate_envoy import as_static, read_bootstrap

_INFER = "/inference.GRPCInferenceService/ModelInfer"
_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
_WINDOWS = ("initial_stream_window_size", "initial_connection_window_size")
_UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
_ANSWERS = 100  # of one stream
_TICK = os.sysconf("SC_CLK_TCK")
# Bytes of an answer, and clients; a stream has many answers of 64 bytes.
_LOADS = {"1 kB": (1000, 16), "1 MiB": (1 << 20, 8), "64 MiB": (64 << 20, 2), "streams": (64, 16)}


@dataclass(slots=True)
class Way:
    """One Envoy, and the load through it."""

    name: str
    process: Any
    client: grpc.aio.Channel
    times: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)

    def cpu(self) -> float:
        """CPU seconds of its Envoy."""
        found = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(found[11]) + int(found[12])) / _TICK

    def memory(self) -> int:
        """Resident memory of its Envoy, in bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def serve(pipe: Any) -> None:
    """A server that answers with the requested number of bytes, and sends its port into `pipe`.

    It runs until it is killed.
    """

    async def infer(request: bytes, _: Any) -> bytes:
        return bytes(int(request))

    async def stream(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            for _ in range(_ANSWERS):
                yield bytes(int(request))

    async def run() -> None:
        server = grpc.aio.server(options=_UNLIMITED)
        methods = {
            "ModelInfer": grpc.unary_unary_rpc_method_handler(infer),
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(stream),
        }
        name = "inference.GRPCInferenceService"
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, methods),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        pipe.send(port)
        await server.wait_for_termination()

    asyncio.run(run())


def config(server: int, listen: int, admin: int, window: int, *, ours: bool) -> dict[str, Any]:
    """The control plane's configuration, apart from the windows of an Envoy with defaults."""
    policy = TrafficPolicy(connection=Connection(per_connection_buffer_limit_bytes=window))
    instance = Instance("a", "127.0.0.1", server, server)
    catalog = Catalog((ServiceCatalog("triton", (instance,), Leader("a", 1), policy=policy),))
    edge = Edge(
        listen_host="127.0.0.1",
        listen_port=listen,
        quarantine=0.0,
        per_connection_buffer_limit_bytes=window,
    )
    found = as_static(build(catalog, edge).adapted_to(Capabilities.CODEC_LIMITS), read_bootstrap())
    found["admin"]["address"]["socket_address"]["port_value"] = admin
    for cluster in found["static_resources"]["clusters"]:
        cluster.pop("health_checks", None)
    return found if ours else _without_windows(found)


def _without_windows(found: Any) -> Any:
    if isinstance(found, dict):
        return {
            name: _without_windows(each) for name, each in found.items() if name not in _WINDOWS
        }
    return [_without_windows(each) for each in found] if isinstance(found, list) else found


@asynccontextmanager
async def envoy(name: str, server: int, window: int, *, ours: bool) -> AsyncIterator[Way]:
    """Run an Envoy."""
    with ports.reserve(2) as (listen, admin), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "envoy.json"
        path.write_text(json.dumps(config(server, listen, admin, window, ours=ours)))
        command = ("-c", str(path), "--disable-hot-restart", "--concurrency", "2", "-l", "critical")
        process = await asyncio.create_subprocess_exec(parts.find("envoy"), *command)
        try:
            async with asyncio.timeout(60):
                await part_probe.until(Probe("http", f"http://127.0.0.1:{admin}/ready"))
            address = f"127.0.0.1:{listen}"
            async with grpc.aio.insecure_channel(address, options=_UNLIMITED) as channel:
                yield Way(name, process, channel)
        finally:
            process.kill()
            await process.wait()


async def turn(way: Way, load: str, seconds: float) -> None:
    """Load one Envoy for a while; each client finishes its request."""
    size, clients = _LOADS[load]
    request = str(size).encode()
    infer: Any = way.client.unary_unary(_INFER)  # type: ignore[call-arg]
    stream: Any = way.client.stream_stream(_STREAM)  # type: ignore[call-arg]

    async def one() -> int:
        if load == "streams":
            return len([answer async for answer in stream(iter([request]))])
        await infer(request)
        return 1

    await one()
    before, began, times = way.cpu(), time.monotonic(), list[float]()
    counts = await asyncio.gather(*(_client(one, began + seconds, times) for _ in range(clients)))
    done = sum(counts)
    way.times += times
    way.rates.append(done / (time.monotonic() - began))
    way.costs.append((way.cpu() - before) / done)


async def _client(one: Callable[[], Awaitable[int]], until: float, times: list[float]) -> int:
    done = 0
    while not done or time.monotonic() < until:
        began = time.monotonic()
        done += await one()
        times.append(time.monotonic() - began)
    return done


async def measure(ways: list[Way], load: str, rounds: int, seconds: float) -> list[list[str]]:
    """Rows for the two Envoys, and one for the ratio of the second to the first."""
    for way in ways:
        way.times, way.rates, way.costs = [], [], []
    for _ in range(rounds):
        for way in ways:
            await turn(way, load, seconds)
    rows = [
        [
            f"{load}, {way.name}",
            f"{median(way.rates):.1f}",
            ms(quantile(way.times, 0.5)),
            ms(quantile(way.times, 0.99)),
            f"{1e6 * median(way.costs):.0f} us",
            f"{way.memory() >> 20} MiB",
        ]
        for way in ways
    ]
    before, after = ways
    pairs = [
        (median(after.rates), median(before.rates)),
        (quantile(after.times, 0.5), quantile(before.times, 0.5)),
        (quantile(after.times, 0.99), quantile(before.times, 0.99)),
        (median(after.costs), median(before.costs)),
        (after.memory(), before.memory()),
    ]
    return [*rows, ["  ratio", *(f"{new / old:.2f}" for new, old in pairs)]]


async def main(options: argparse.Namespace) -> None:
    """Measure and print."""
    report.begin("Envoy's own windows of HTTP/2 and ours, in turn")
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    server = context.Process(target=serve, args=(sender,), daemon=True)
    server.start()
    port = await asyncio.to_thread(receiver.recv)
    async with AsyncExitStack() as stack:
        ways = [
            await stack.enter_async_context(envoy(name, port, options.window, ours=name == "ours"))
            for name in ("Envoy's", "ours")
        ]
        head = ["answers", "per s", "p50", "p99", "Envoy's CPU each", "Envoy's memory"]
        rows = [head]
        for load in _LOADS:
            rows += await measure(ways, load, options.rounds, options.seconds)
        report.table(f"A stream's window of ours: {options.window >> 10} KiB", *rows)
    server.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--window", type=int, default=1 << 20, help="bytes")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each turn")
    asyncio.run(main(parser.parse_args()))
    sys.exit(0)
