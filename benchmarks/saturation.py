"""Whether a mesh mistakes overload or a short freeze for an unhealthy instance.

Minutes of load under which requests always wait at the primary: next to 16 clients whose requests
are counted, as many as make their 99th percentile at least 20 times that of a single client. Then
ten short freezes of the primary's Triton (SIGSTOP for 0.2 to 0.8 s, at random) under those 16.

Exit status 1 if a verdict was CRITICAL, if the primary changed, if a request failed or was answered
wrongly, if the queue was ever empty, or if the load was not 20 times as slow as the single client.
"""

import argparse
import asyncio
import math
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, redirect_stdout

from benchmarks import report
from benchmarks.report import ms
from sidecar.drill.record import Run
from sidecar.drill.scenario import Scenario
from sidecar.drill.stage.mesh import MeshStage
from sidecar.local.meshfile import Mesh
from tests.support.faults.faults import CLIENTS, MODELS, QUEUED
from tests.support.mesh.mesh import LiveMesh
from tests.support.mesh.pressure import freezes, overload, pauses, pressed

_CALM = 10.0  # seconds
_BETWEEN = 4.0  # seconds between two freezes
_FREEZES = 10
_FACTOR = 20.0


async def measure(mesh: Mesh, minutes: float, seed: int) -> int:
    """Measure and print everything; returns the exit status."""
    live, queue = LiveMesh(mesh.dir), list[int]()
    idle = await _run(live, _UNDISTURBED, 1)
    busy = await _run(live, overload(QUEUED, minutes * 60, queue), CLIENTS)
    frozen = await _run(live, freezes(pauses(_FREEZES, seed), _BETWEEN), CLIENTS)
    report.table(
        "What came of it",
        ("", "seconds", "requests", "failed", "wrong", "p50", "p99", "queue at least",
         "critical", "warning", "new primaries"),
        ("1 client", *requests(idle), "", "", "", ""),
        (f"{QUEUED} more clients", *requests(busy), str(min(queue, default=0)), *reactions(busy)),
        (f"{_FREEZES} freezes", *requests(frozen), "", *reactions(frozen)),
        note=f"critical and warning count verdicts of both instances; freezes drawn with {seed}",
    )  # fmt: skip
    found = troubles(idle, busy, frozen, min(queue, default=0))
    print("\n".join(found), file=sys.stderr)
    return 1 if found else 0


async def _run(live: LiveMesh, scenario: Scenario[MeshStage], clients: int) -> Run:
    with redirect_stdout(sys.stderr):  # the steps of the drill
        return await pressed(live, scenario, unary=clients, between=0.0)


@asynccontextmanager
async def _nothing(stage: MeshStage, victim: str) -> AsyncIterator[None]:
    yield


_UNDISTURBED = Scenario("nothing", "nothing", "Nothing happens.", _nothing, lasts=_CALM)


def requests(run: Run) -> tuple[str, ...]:
    """The length of a scenario, and the outcome and the latency of its requests."""
    injected, restored = span(run)
    counts = (str(run.figures.sent), str(run.figures.failed), str(run.figures.wrong))
    quantiles = (ms(report.quantile(times(run), share)) for share in (0.5, 0.99))
    return f"{restored - injected:.0f}", *counts, *quantiles


def times(run: Run) -> list[float]:
    """The latencies of requests that were answered while the scenario lasted, in seconds."""
    injected, restored = span(run)
    return [
        one.took
        for one in run.samples
        if one.outcome == "answered" and injected <= one.ended <= restored
    ]


def span(run: Run) -> tuple[float, float]:
    """When the scenario began and ended; both NaN if it did not."""
    at = {mark.event: mark.at for mark in run.marks}
    return at.get("injected", math.nan), at.get("restored", math.nan)


def reactions(run: Run) -> tuple[str, ...]:
    """The reactions of the mesh: verdicts by status, and new primaries."""
    verdicts = [mark.status for mark in run.marks if mark.event == "verdict"]
    primaries = sum(mark.event == "primary" for mark in run.marks)
    return str(verdicts.count("critical")), str(verdicts.count("warning")), str(primaries)


def troubles(idle: Run, busy: Run, frozen: Run, queue: int) -> list[str]:
    """What must not happen."""
    found = []
    factor = report.quantile(times(busy), 0.99) / report.quantile(times(idle), 0.99)
    if not factor >= _FACTOR or not queue:
        found.append(f"no overload: p99 is {factor:.1f} times the idle one, queue {queue}")
    for run in (idle, busy, frozen):
        found += [f"{run.title}: {each}" for each in run.violations]
        if run.status != "passed":
            found.append(f"{run.title}: {run.status} {run.reason}".rstrip())
        if reactions(run)[0] != "0":
            found.append(f"{run.title}: a verdict was critical")
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
