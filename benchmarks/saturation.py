"""Whether a mesh mistakes overload or a short freeze for an unhealthy instance.

Minutes of load under which requests always wait at the primary: as many clients as make the 99th
percentile at least 20 times that of a single client. Then ten short freezes of the primary's Triton
(SIGSTOP for 0.2 to 0.8 s, at random) under 16 clients.

Exit status 1 if a verdict was CRITICAL, if the primary changed, if a request failed or was answered
wrongly, if the queue was ever empty, or if the load was not 20 times as slow as the single client.
"""

import argparse
import asyncio
import sys
import time

from benchmarks import report
from benchmarks.report import ms
from sidecar.local.load import LoadTally
from sidecar.local.meshfile import Mesh
from tests.support.faults.faults import MODELS
from tests.support.faults.stages import QUEUED
from tests.support.mesh.mesh import LiveMesh
from tests.support.mesh.pressure import Watched, calm, freeze, pauses, saturate

_CALM = 10.0  # seconds
_BETWEEN = 4.0  # seconds between two freezes
_FREEZES = 10
_FACTOR = 20.0


async def measure(mesh: Mesh, minutes: float, seed: int) -> int:
    """Measure and print everything; returns the exit status."""
    live = LiveMesh(mesh.dir)
    await live.steady()
    idle = await calm(mesh.envoy.grpc, _CALM)
    busy = await saturate(live, minutes * 60)
    frozen = await freeze(live, pauses(_FREEZES, seed), _BETWEEN)
    report.table(
        "What came of it",
        ("", "seconds", "requests", "failed", "wrong", "p50", "p99", "queue at least",
         "CRITICAL", "WARNING", "new primaries"),
        ("1 client", f"{_CALM:g}", *requests(idle), "", "", "", ""),
        (f"{QUEUED} clients", f"{busy.seconds:.0f}", *requests(busy.unary), *seen(busy)),
        (f"{_FREEZES} freezes", f"{frozen.seconds:.0f}", *requests(frozen.unary), *seen(frozen)),
        note=f"CRITICAL and WARNING count verdicts of both instances; freezes drawn with {seed}",
    )  # fmt: skip
    found = troubles(idle, busy, frozen)
    print("\n".join(found), file=sys.stderr)
    return 1 if found else 0


def requests(tally: LoadTally) -> tuple[str, ...]:
    """The outcome and the latency of requests."""
    quantiles = ms(tally.quantile(0.5)), ms(tally.quantile(0.99))
    return str(tally.sent), str(len(tally.failed)), str(len(tally.wrong)), *quantiles


def seen(watched: Watched) -> tuple[str, ...]:
    """The reactions of the mesh."""
    queue = "" if watched.queue is None else str(watched.queue)
    states = (str(watched.verdicts[state]) for state in ("CRITICAL", "WARNING"))
    return queue, *states, str(len(watched.primaries))


def troubles(idle: LoadTally, busy: Watched, frozen: Watched) -> list[str]:
    """What must not happen."""
    found = []
    factor = busy.unary.quantile(0.99) / idle.quantile(0.99)
    if not factor >= _FACTOR or not busy.queue:
        found.append(f"no overload: p99 is {factor:.1f} times the idle one, queue {busy.queue}")
    for name, watched in (("overload", busy), ("freezes", frozen)):
        bad = [*watched.unary.failed, *watched.unary.wrong]
        found += [f"{name}: {failure.what}" for failure in bad[:5]]
        if watched.verdicts["CRITICAL"] or watched.primaries:
            found.append(f"{name}: {dict(watched.verdicts)}, new primaries {watched.primaries}")
    return found


def main() -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="of overload; default 1")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the freezes")
    wished = parser.parse_args()
    report.begin("Overload and short freezes")
    with report.mesh(2, "--only-models", *(f"--models={model}" for model in MODELS)) as mesh:
        return asyncio.run(measure(mesh, wished.minutes, wished.seed))


if __name__ == "__main__":
    sys.exit(main())
