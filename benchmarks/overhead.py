"""The overhead of Envoy: the same requests through it and directly to Triton.

Closed loop, with requests that were serialised beforehand and answers compared byte by byte, so
that the client adds as little as possible. The two routes take turns, so that other load on the
machine affects both. Exit status 1 if a request failed or an answer was wrong.
"""

import argparse
import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import numpy as np

from benchmarks import report
from benchmarks.report import ms, quantile
from sidecar.local.meshfile import Mesh
from sidecar.triton.api import Tensor
from sidecar.triton.infer_requests import infer_request
from sidecar.triton.tensors import tensor

_ROUNDS = 5
_TURN = 1.2  # seconds of load before the other route's turn
_CLIENTS = (1, 16)
_DEADLINE = 10.0
_INFER = "/inference.GRPCInferenceService/ModelInfer"
# A separate connection for each client, as if each were a separate process.
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))


@dataclass(slots=True)
class Measured:
    """The outcome of the requests on one route."""

    times: list[float] = field(default_factory=list)
    seconds: float = 0.0
    bad: int = 0

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.times) / self.seconds


def requests() -> dict[str, bytes]:
    """A small request and a large one, serialised."""
    sampling = json.dumps({"max_tokens": 8, "temperature": 0})
    small = {
        "text_input": tensor("BYTES", [1], ["The primary"]),
        "sampling_parameters": tensor("BYTES", [1], [sampling]),
    }
    large = {
        "text": tensor("BYTES", [1], ["ready"]),
        "payload": Tensor("FP32", np.random.default_rng(0).random(1 << 18, dtype=np.float32)),
    }
    echoed = infer_request("embedder", large)
    echoed.outputs.add(name="echo")
    return {
        "tinychat_unary": infer_request("tinychat_unary", small).SerializeToString(),
        "embedder, 1 MiB there and back": echoed.SerializeToString(),
    }


async def turn(address: str, request: bytes, clients: int, right: bytes, into: Measured) -> None:
    """Load one route for a while."""
    channels = [grpc.aio.insecure_channel(address, options=_OPTIONS) for _ in range(clients)]
    try:
        for channel in channels:
            await channel.channel_ready()
        began = time.monotonic()
        until = began + _TURN
        await asyncio.gather(
            *(_client(channel, request, right, until, into) for channel in channels)
        )
        into.seconds += time.monotonic() - began
    finally:
        for channel in channels:
            await channel.close(None)


async def _client(
    channel: grpc.aio.Channel, request: bytes, right: bytes, until: float, into: Measured
) -> None:
    infer: Any = channel.unary_unary(_INFER)  # type: ignore[call-arg]
    while (sent := time.monotonic()) < until:
        try:
            answer = await infer(request, timeout=_DEADLINE)
        except grpc.aio.AioRpcError as error:
            into.bad += 1
            print(f"failed: {error.code()}: {error.details()}", file=sys.stderr)
            await asyncio.sleep(0.05)
            continue
        into.times.append(time.monotonic() - sent)
        into.bad += answer != right


async def compare(mesh: Mesh, request: bytes, clients: int) -> tuple[Measured, Measured]:
    """Both routes in turns: directly to Triton, and through Envoy."""
    ways = (mesh.instances[0].triton.grpc, Measured()), (mesh.envoy.grpc, Measured())
    async with grpc.aio.insecure_channel(ways[0][0], options=_OPTIONS) as channel:
        infer: Any = channel.unary_unary(_INFER)  # type: ignore[call-arg]
        right = await infer(request, timeout=_DEADLINE)
    for address, _ in ways:
        await turn(address, request, clients, right, Measured())  # for warming up
    for number in range(_ROUNDS):
        for address, into in ways if number % 2 else reversed(ways):
            await turn(address, request, clients, right, into)
    return ways[0][1], ways[1][1]


def rows(name: str, clients: int, direct: Measured, envoy: Measured) -> list[tuple[str, ...]]:
    """The lines of the table for one kind of load."""

    def figures(found: Measured) -> tuple[str, ...]:
        p50, p99 = (ms(quantile(found.times, share), 2) for share in (0.5, 0.99))
        return p50, p99, f"{found.rate:.0f}/s", str(len(found.times)), str(found.bad)

    def ratio(share: float) -> str:
        return f"{quantile(envoy.times, share) / quantile(direct.times, share):.2f}"

    title = f"{name}, {clients} {'clients' if clients > 1 else 'client'}"
    return [
        (title, "direct", *figures(direct)),
        ("", "Envoy", *figures(envoy)),
        ("", "ratio", ratio(0.5), ratio(0.99), f"{envoy.rate / direct.rate:.2f}", "", ""),
    ]


async def measure(mesh: Mesh) -> int:
    """Measure and print everything; returns the exit status."""
    found: list[tuple[str, ...]] = [("load", "way", "p50", "p99", "rate", "requests", "bad")]
    bad = 0
    for name, request in requests().items():
        for clients in _CLIENTS:
            direct, envoy = await compare(mesh, request, clients)
            found += rows(name, clients, direct, envoy)
            bad += direct.bad + envoy.bad
    report.table(
        "Through Envoy against straight to Triton",
        *found,
        note=f"{_ROUNDS} rounds of {_TURN:g} s each way, in turns; clients, Envoy and Triton share "
        "the machine's cores",
    )
    return 1 if bad else 0


def main() -> int:
    """Run the benchmark; returns the exit status."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    report.begin("What the way through Envoy costs")
    with report.mesh(instances=1) as mesh:
        return asyncio.run(measure(mesh))


if __name__ == "__main__":
    sys.exit(main())
