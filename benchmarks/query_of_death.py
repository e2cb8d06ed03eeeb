"""A request that takes its Triton down, sent again and again: who goes down, and who else fails.

Three instances serve the model `mortal`. 16 clients, or as many as --clients says, ask it questions
that nobody asked before, each its next one when it has its answer. After a while one more client
sends the deadly request, and sends it again on a new connection whenever it has failed. With
--streams that one and every second of the others open a stream for each question.

The baseline is the same with the control plane's `quarantine` switched off: --without.

Exit status 1 if more than two Tritons went down or a request of the others failed, but not with
--without. A stream of theirs that was cut while it was answered has not failed.
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

MODEL = Path(__file__).parents[1] / "tests" / "support" / "triton_models" / "mortal"
_CALM, _POISONED = 3.0, 15.0  # seconds
_DEADLINE = 60.0
_REFUSED = 0.02  # seconds that a client waits after an error
_CUT = "Received RST_STREAM"
_LOOK = 0.1  # seconds between looks at which Tritons run


def switch_off(mesh: Mesh) -> None:
    """Have the control plane start again without a quarantine."""
    [settings] = mesh.dir.rglob("xds.toml")
    text = settings.read_text(encoding="utf-8")
    settings.write_text(text.replace("[envoy]", '[envoy]\nquarantine = "0s"'), encoding="utf-8")
    before = meshfile.load(mesh.dir).xds.pid
    assert before is not None
    os.kill(before, signal.SIGTERM)
    while meshfile.load(mesh.dir).xds.pid in (None, before):
        time.sleep(_LOOK)
    time.sleep(_CALM)  # until Envoy is back, and has taken it


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
    """Ask one new question after the other."""
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


async def bad(address: str, deed: str, until: float, said: "Counter[str]", *, stream: bool) -> None:
    """Send the deadly request until it is over, each time on a new connection."""
    while time.monotonic() < until:
        async with aio.InferenceServerClient(address) as client:
            try:
                await _ask(client, deed, stream=stream)
            except (InferenceServerException, grpc.aio.AioRpcError) as error:
                said[str(error).partition("; ")[0][:110]] += 1


async def fallen(mesh: Mesh, until: float, found: "Counter[str]") -> None:
    """Count how often each Triton was another process than before."""
    before: dict[str, int] = {}
    while time.monotonic() < until:
        for instance in meshfile.load(mesh.dir).instances:
            pid = instance.triton.pid
            if pid is not None:
                found[instance.id] += before.get(instance.id, pid) != pid
                before[instance.id] = pid
        await asyncio.sleep(_LOOK)


async def measure(
    mesh: Mesh, clients: int, deed: str, *, streams: bool
) -> tuple[LoadTally, "Counter[str]", "Counter[str]"]:
    """What became of the good ones, which Tritons went down, and what the bad one was told."""
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
    tasks.append(asyncio.create_task(bad(address, deed, until, said, stream=streams)))
    await asyncio.gather(*tasks)
    return tally, +down, said


def main() -> int:
    """Run the benchmark; gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--deed", choices=("die", "freeze"), default="die")
    parser.add_argument("--streams", action="store_true", help="one of two clients sends these")
    parser.add_argument("--without", action="store_true", help="switched off, for comparison")
    wished = parser.parse_args()
    kind = "stream" if wished.streams else "request"
    report.begin(f"A {kind} that makes its Triton {wished.deed}, beside {wished.clients} clients")
    with report.mesh(3, "--only-models", f"--models={MODEL}") as mesh:
        if wished.without:
            switch_off(mesh)
        tally, down, said = asyncio.run(
            measure(mesh, wished.clients, wished.deed, streams=wished.streams)
        )
    cut = [each for each in tally.failed if _CUT in each.what]
    failed = len(tally.failed) - len(cut)
    times = [took for _, took in tally.done]
    report.table(
        "Switched off" if wished.without else "Switched on",
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
    return int(not wished.without and (len(down) > 2 or bool(failed)))


if __name__ == "__main__":
    sys.exit(main())
