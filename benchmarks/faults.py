"""Every fault of tests/support/faults on a real mesh: when the verdict falls, and its cost.

Two instances serve the models `faulty` and `faulty_stream`; 16 clients send unary requests through
Envoy and 2 open streams in a closed loop, or as many as --clients and --streams say, with
all answers compared. Each fault is a drill: it is injected into the primary, and removed 3 s after
Consul had its verdict.

A fault cannot be distinguished from a harmless event until its window has passed: a deadline,
the stall window. The time of the verdict beyond it is given in intervals of the layer that sees
it: a second for server and models, and for a canary the longest, two seconds.

Exit status 1 if a verdict or its reason is not the right one, if it took more than two intervals
beyond its window, or if a unary request failed that a healthy instance could have answered.
"""

import argparse
import asyncio
import json
import math
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from benchmarks import markdown, report
from sidecar.drill.samples import Kind
from sidecar.local.meshfile import Mesh
from tests.support.faults.faults import CLIENTS, FAULTS, MODELS, STREAMS, Fault
from tests.support.faults.outcome import Outcome, inject
from tests.support.mesh.mesh import LiveMesh
from tests.support.mesh.mesh_outside import http

PAGE = Path(__file__).parents[1] / "docs" / "health.md"
PROMISED = 2.0  # intervals
# Faults follow each other here, which must not make later verdicts slower.
_ENVIRONMENT = {"TRITON_SIDECAR_HEALTH__MAX_HOLD": "2s"}
_HEAD = (
    "fault", "verdict", "reason", "after", "window", "beyond it, in intervals",
    "unary failed", "unary wrong", "slowest", "streams failed", "streams wrong",
)  # fmt: skip


async def measure(
    mesh: Mesh, chosen: Sequence[Fault], clients: int, streams: int
) -> tuple[list[Outcome], str]:
    """Inject the faults one after the other; also returns the versions of the parts."""
    live = LiveMesh(mesh.dir)
    versions = await _versions(mesh)
    outcomes = []
    for fault in chosen:
        with redirect_stdout(sys.stderr):  # the steps of the drill
            found = await inject(live, fault, unary=clients, streams=streams, pause=0.0)
        outcomes.append(found)
        print("  ".join(row(found)), file=sys.stderr)
    return outcomes, versions


def row(outcome: Outcome) -> tuple[str, ...]:
    """The line of the table for one fault."""
    fault, figures = outcome.fault, outcome.run.figures
    seen = ("not seen" if fault.scenario.expects.reasons else "unchanged", "", "", "")
    if not fault.state:  # the drill waited for that line of the sidecar's log
        seen = ("unchanged, reload failed", "", "", "")
    if outcome.after is not None:
        seen = (fault.state, outcome.reason, f"{outcome.after:.2f} s", f"{outcome.intervals:.1f}")
    state, reason, after, intervals = seen
    window = f"{fault.window:g} s" if fault.window else ""
    slowest = "" if figures.slowest is None else f"{figures.slowest:.2f} s"
    unary, streams = _costs(outcome, "unary"), _costs(outcome, "stream")
    return (fault.name, state, reason, after, window, intervals, *unary, slowest, *streams)


def _costs(outcome: Outcome, kind: Kind) -> tuple[str, ...]:
    """Failed and wrong requests, each before the verdict + after it."""
    verdict = outcome.decisive.at if outcome.decisive else math.inf
    found = []
    for bad in ("failed", "wrong"):
        ended = [
            one.ended
            for one in outcome.run.samples
            if one.kind == kind and one.outcome == bad and one.ended >= outcome.injected
        ]
        before = sum(at < verdict for at in ended)
        found.append(f"{before} + {len(ended) - before}" if ended else "0")
    return tuple(found)


def complaints(outcome: Outcome) -> list[str]:
    """What differs from the promised outcome."""
    found = [f"{outcome.fault.name}: {trouble}" for trouble in outcome.trouble]
    if outcome.intervals is not None and outcome.intervals > PROMISED:
        found.append(f"{outcome.fault.name}: {outcome.intervals:.1f} intervals beyond its window")
    return found


async def _versions(mesh: Mesh) -> str:
    consul = json.loads(await http("GET", f"http://{mesh.consul.http}/v1/agent/self"))
    envoy = json.loads(await http("GET", f"http://{mesh.envoy.admin}/server_info"))
    triton = json.loads(await http("GET", f"http://{mesh.instances[0].triton.http}/v2"))
    return ", ".join(
        (
            f"Consul {consul['Config']['Version']}",
            f"Envoy {envoy['version'].split('/')[1]}",
            f"Triton {triton['version']}",
        )
    )


def main() -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    parser.add_argument("--clients", type=int, default=CLIENTS, metavar="N")
    parser.add_argument("--streams", type=int, default=STREAMS, metavar="N")
    parser.add_argument("--only", metavar="TEXT", default="", help="faults whose name holds this")
    wished = parser.parse_args()
    chosen = [fault for fault in FAULTS if wished.only in fault.name]
    clients, streams = wished.clients, wished.streams
    report.begin(f"Staged faults under {clients} clients with unary requests, {streams} streams")
    os.environ |= _ENVIRONMENT
    with report.mesh(2, "--only-models", *(f"--models={model}" for model in MODELS)) as mesh:
        outcomes, versions = asyncio.run(measure(mesh, chosen, clients, streams))
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    about = [f"`{command}`", report.machine(), versions, _settings()]
    text = markdown.section(about, markdown.table(_HEAD, [row(outcome) for outcome in outcomes]))
    print(text)
    if wished.write:
        markdown.put(PAGE, "staged faults", text)
    found = [line for outcome in outcomes for line in complaints(outcome)]
    print("\n".join(found), file=sys.stderr)
    return 1 if found else 0


def _settings() -> str:
    return "defaults, but " + ", ".join(f"{key}={value}" for key, value in _ENVIRONMENT.items())


if __name__ == "__main__":
    sys.exit(main())
