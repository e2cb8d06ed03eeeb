"""The cost of routing by model: Envoy with and without it, in turns on the same server.

The third way names an alias, which Envoy replaces in the request. Some names of models that no
request is for are in the policy as well. Every answer is compared. CPU time is Envoy's alone, and
hardly depends on other load on the machine. Exit status 1 if a request failed or was answered
wrongly.
"""

import argparse
import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2

from benchmarks import report
from benchmarks.report import ms, quantile
from sidecar.local.planning import ports
from sidecar.local.planning.plan import Probe
from sidecar.local.processes import part_probe
from sidecar.local.programs import parts
from sidecar.traffic.policy import DEFAULTS, ModelRule, RoutingMode, TrafficPolicy
from sidecar.xds.catalog.catalog import Catalog, Instance, Leader, ServiceCatalog
from sidecar.xds.config.capabilities import Capabilities
from sidecar.xds.config.edge import Edge
from sidecar.xds.config.snapshot import build
from tests.checks.validate_envoy import as_static, read_bootstrap

_SERVICE = "/inference.GRPCInferenceService/"
_UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
_MODEL, _ALIAS = "resnet50", "images"
_BY_MODEL = replace(
    DEFAULTS, routing=RoutingMode.BY_MODEL, models=((_ALIAS, ModelRule(_MODEL, ("other-0",))),)
)
# The ways, each with its policy and the model that its requests name.
_WAYS = {
    "by-service": (DEFAULTS, _MODEL),
    "by-model": (_BY_MODEL, _MODEL),
    "by-model, alias": (_BY_MODEL, _ALIAS),
}
# Bytes of a request's tensor, clients, and whether each request is a stream of its own.
_LOADS = {
    "100 bytes, 1 client": (100, 1, False),
    "100 bytes, 16 clients": (100, 16, False),
    "a stream of one message, 1 client": (100, 1, True),
    "1 MiB, 1 client": (1 << 20, 1, False),
    "64 MiB, 1 client": (64 << 20, 1, False),
}


@dataclass(slots=True)
class Way:
    """One Envoy, the load through it, and how many of its requests failed or were wrong."""

    name: str
    model: str
    process: Any
    client: grpc.aio.Channel
    times: list[float] = field(default_factory=list)
    spent: float = 0.0
    bad: int = 0

    def cpu(self) -> float:
        """CPU seconds of its Envoy."""
        found = Path(f"/proc/{self.process.pid}/schedstat").parent.glob("task/*/schedstat")
        return sum(int(each.read_text().split()[0]) for each in found) / 1e9


def serve(pipe: Any) -> None:
    """A server that answers with the model that it was asked for; sends its port into `pipe`."""

    def named(request: bytes) -> bytes:
        return str(service_pb2.ModelInferRequest.FromString(request).model_name).encode()

    async def infer(request: bytes, _: Any) -> bytes:
        return named(request)

    async def stream(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield named(request)

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


def config(server: int, listen: int, admin: int, policy: TrafficPolicy, models: int) -> Any:
    """The control plane's configuration, for an instance with so many models."""
    others = tuple(f"other-{number}" for number in range(models - 1))
    instance = Instance("a", "127.0.0.1", server, server, models=(_MODEL, *others))
    catalog = Catalog((ServiceCatalog("triton", (instance,), Leader("a", 1), policy=policy),))
    edge = Edge(listen_host="127.0.0.1", listen_port=listen, quarantine=0.0)
    found = as_static(build(catalog, edge).adapted_to(Capabilities.CODEC_LIMITS), read_bootstrap())
    found["admin"]["address"]["socket_address"]["port_value"] = admin
    for cluster in found["static_resources"]["clusters"]:
        cluster.pop("health_checks", None)
    return found


@asynccontextmanager
async def envoy(name: str, server: int, models: int) -> AsyncIterator[Way]:
    """Run an Envoy."""
    policy, model = _WAYS[name]
    with ports.reserve(2) as (listen, admin), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "envoy.json"
        path.write_text(json.dumps(config(server, listen, admin, policy, models)))
        command = ("-c", str(path), "--disable-hot-restart", "--concurrency", "2", "-l", "critical")
        process = await asyncio.create_subprocess_exec(parts.find("envoy"), *command)
        try:
            async with asyncio.timeout(60):
                await part_probe.until(Probe("http", f"http://127.0.0.1:{admin}/ready"))
            address = f"127.0.0.1:{listen}"
            async with grpc.aio.insecure_channel(address, options=_UNLIMITED) as channel:
                yield Way(name, model, process, channel)
        finally:
            process.kill()
            await process.wait()


async def turn(way: Way, load: str, seconds: float) -> None:
    """Load one Envoy for a while; each client finishes its request."""
    size, clients, streams = _LOADS[load]
    made = service_pb2.ModelInferRequest(model_name=way.model, raw_input_contents=[bytes(size)])
    request = made.SerializeToString()
    infer: Any = way.client.unary_unary(_SERVICE + "ModelInfer")  # type: ignore[call-arg]
    stream: Any = way.client.stream_stream(_SERVICE + "ModelStreamInfer")  # type: ignore[call-arg]

    async def one() -> bytes:
        if streams:
            return b"".join([answer async for answer in stream(iter([request]))])
        return bytes(await infer(request))

    async def client() -> None:
        while time.monotonic() < until:
            began = time.monotonic()
            try:
                way.bad += await one() != _MODEL.encode()
            except grpc.aio.AioRpcError as error:
                way.bad += 1
                print(f"{way.name}: {error.code()}: {error.details()}", file=sys.stderr)
            way.times.append(time.monotonic() - began)

    await one()
    until, before = time.monotonic() + seconds, way.cpu()
    await asyncio.gather(*(client() for _ in range(clients)))
    way.spent += way.cpu() - before


async def measure(ways: list[Way], load: str, rounds: int, seconds: float) -> list[list[str]]:
    """A row for each way, with what it adds to the first one."""
    for way in ways:
        way.times, way.spent = [], 0.0
    for number in range(rounds):
        for way in ways if number % 2 else reversed(ways):
            await turn(way, load, seconds)
    usual = quantile(ways[0].times, 0.5)
    return [
        [
            f"{load}, {way.name}",
            ms(quantile(way.times, 0.5), 2),
            ms(quantile(way.times, 0.99), 2),
            "" if way is ways[0] else ms(quantile(way.times, 0.5) - usual, 2),
            "" if way is ways[0] else f"{quantile(way.times, 0.5) / usual:.2f}",
            ms(way.spent / len(way.times), 3),
            str(len(way.times)),
            str(way.bad),
        ]
        for way in ways
    ]


async def main(options: argparse.Namespace) -> int:
    """Measure and print; returns the exit status."""
    report.begin("What routing by model costs")
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    server = context.Process(target=serve, args=(sender,), daemon=True)
    server.start()
    port = await asyncio.to_thread(receiver.recv)
    async with AsyncExitStack() as stack:
        ways = [
            await stack.enter_async_context(envoy(name, port, options.models)) for name in _WAYS
        ]
        rows = [
            ["request", "p50", "p99", "p50 more", "ratio", "Envoy's CPU each", "requests", "bad"]
        ]
        for load in _LOADS:
            rows += await measure(ways, load, options.rounds, options.seconds)
        note = f"{options.models} models; {options.rounds} turns of {options.seconds:g} s each"
        report.table("Envoy with and without routing by model", *rows, note=note)
    server.kill()
    return 1 if any(way.bad for way in ways) else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each turn")
    parser.add_argument("--models", type=int, default=20, help="that the instance names")
    sys.exit(asyncio.run(main(parser.parse_args())))
