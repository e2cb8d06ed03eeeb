"""A request that crashes its Triton, sent repeatedly: which Tritons crash, and what others notice.

Three instances serve the model `mortal`. 16 clients, or --clients, send it distinct requests
in a closed loop. After a while another client
sends the query of death, and resends it on a new connection whenever it fails. With
--streams, that client and every second of the others open a stream for each request.

The baseline is the same without the control plane's `quarantine`: --without.

Exit status 1 if more than two Tritons crashed or a request of the others failed, but not with
--without. A stream of theirs that was cut while it was being answered does not count as failed.
"""

import argparse
import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
from tritonclient.grpc import aio
from tritonclient.utils import InferenceServerException

from benchmarks import report
from benchmarks.report import ms, quantile
from sidecar.local import meshfile
from sidecar.local.load import Failure, LoadTally
from sidecar.local.meshfile import Mesh
from tests.support.mesh.mesh_clients import text

MODEL = Path(__file__).parents[1] / "triton_models" / "mortal"
_CALM, _POISONED = 3.0, 15.0  # seconds
_DEADLINE = 60.0
_REFUSED = 0.02  # seconds that a client waits after an error
_CUT = "Received RST_STREAM"
_LOOK = 0.1  # seconds between two reads of the Tritons' pids


def switch_off(mesh: Mesh) -> None:
    """Restart the control plane without a quarantine."""
    [settings] = mesh.dir.rglob("xds.toml")
    text = settings.read_text(encoding="utf-8")
    settings.write_text(text.replace("[envoy]", '[envoy]\nquarantine = "0s"'), encoding="utf-8")
    before = meshfile.load(mesh.dir).xds.pid
    assert before is not None
    os.kill(before, signal.SIGTERM)
    while meshfile.load(mesh.dir).xds.pid in (None, before):
        time.sleep(_LOOK)
    time.sleep(_CALM)  # until Envoy has reconnected and acknowledged it


async def _ask(client: aio.InferenceServerClient, question: str, *, stream: bool) -> None:
    inputs = [text("text", question)]
    if not stream:
        await client.infer("mortal", inputs, client_timeout=_DEADLINE)
        return

    async def once() -> AsyncIterator[dict[str, object]]:
        yield {"model_name": "mortal", "inputs": inputs}

    async for _, error in client.stream_infer(once(), stream_timeout=_DEADLINE):
        if error:
            raise error


async def good(address: str, number: int, tally: LoadTally, until: float, *, stream: bool) -> None:
    """Send distinct requests, one after the other."""
    async with aio.InferenceServerClient(address) as client:
        turn = 0
        while time.monotonic() < until:
            sent, turn = time.monotonic(), turn + 1
            try:
                await _ask(client, f"question {turn} of {number}", stream=stream)
            except (InferenceServerException, grpc.aio.AioRpcError) as error:
                tally.failed.append(Failure(time.monotonic(), str(error)))
                await asyncio.sleep(_REFUSED)
            else:
                tally.done.append((sent, time.monotonic() - sent))


async def bad(
    address: str, question: str, until: float, said: "Counter[str]", *, stream: bool
) -> None:
    """Send the query of death until the end, each time on a new connection."""
    while time.monotonic() < until:
        async with aio.InferenceServerClient(address) as client:
            try:
                await _ask(client, question, stream=stream)
            except (InferenceServerException, grpc.aio.AioRpcError) as error:
                said[str(error).partition("; ")[0][:110]] += 1


async def fallen(mesh: Mesh, until: float, found: "Counter[str]") -> None:
    """Count the restarts of each Triton, by its pid."""
    before: dict[str, int] = {}
    while time.monotonic() < until:
        for instance in meshfile.load(mesh.dir).instances:
            pid = instance.triton.pid
            if pid is not None:
                found[instance.id] += before.get(instance.id, pid) != pid
                before[instance.id] = pid
        await asyncio.sleep(_LOOK)


async def measure(
    mesh: Mesh, clients: int, question: str, *, streams: bool
) -> tuple[LoadTally, "Counter[str]", "Counter[str]"]:
    """The outcome of the good clients, the crashes of each Triton, and the bad client's errors."""
    address, tally = mesh.envoy.grpc, LoadTally()
    down: Counter[str] = Counter()
    said: Counter[str] = Counter()
    until = time.monotonic() + _CALM + _POISONED
    tasks = [
        asyncio.create_task(good(address, each, tally, until, stream=streams and each % 2 == 1))
        for each in range(clients)
    ]
    tasks.append(asyncio.create_task(fallen(mesh, until + _CALM, down)))
    await asyncio.sleep(_CALM)
    tasks.append(asyncio.create_task(bad(address, question, until, said, stream=streams)))
    await asyncio.gather(*tasks)
    return tally, +down, said


def main() -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--effect", choices=("die", "freeze"), default="die")
    parser.add_argument("--streams", action="store_true", help="one of two clients sends these")
    parser.add_argument("--without", action="store_true", help="switched off, for comparison")
    options = parser.parse_args()
    kind = "stream" if options.streams else "request"
    report.begin(f"A {kind} that makes its Triton {options.effect}, {options.clients} others")
    with report.mesh(3, "--only-models", f"--models={MODEL}") as mesh:
        if options.without:
            switch_off(mesh)
        tally, down, said = asyncio.run(
            measure(mesh, options.clients, options.effect, streams=options.streams)
        )
    cut = [each for each in tally.failed if _CUT in each.what]
    failed = len(tally.failed) - len(cut)
    times = [took for _, took in tally.done]
    report.table(
        "Switched off" if options.without else "Switched on",
        (
            "others' requests",
            "failed",
            "streams cut",
            "p50",
            "slowest",
            "Tritons down",
            "how often",
        ),
        (
            str(tally.sent),
            str(failed),
            str(len(cut)),
            ms(quantile(times, 0.5)),
            ms(tally.slowest, 0),
            str(len(down)),
            ", ".join(f"{name} {count}" for name, count in sorted(down.items())),
        ),
        note=f"{_POISONED:g} s with the deadly request",
    )
    for why, count in said.most_common(4):
        print(f"it was told {count} x: {why}")
    for why, count in Counter(each.what[:110] for each in tally.failed).most_common(4):
        print(f"others were told {count} x: {why}")
    return int(not options.without and (len(down) > 2 or bool(failed)))


if __name__ == "__main__":
    sys.exit(main())
