"""What clients notice when the primary of a two-instance mesh fails, under load.

64 clients send unary requests and 4 open streams in a closed loop, all
with plain tritonclient and all answers compared. Four of the drill's scenarios are run, several
times each.

The longest extra delay is the slowest request that was in flight at the fault or sent within a
second of it, minus the 99th percentile of the undisturbed seconds before. Later requests are slow
because a part restarts and takes CPU time from all others. The line `nothing`
is the same difference within the undisturbed seconds: the noise of the machine.

The baseline, on the same Tritons, is a setup without the mesh: an Envoy with both Tritons
in a file. Its graceful stop is SIGTERM to Triton.

Exit status 1 if a run through the mesh did not pass: a unary request failed at any time, an answer
was wrong, a stream was cut although its Triton was running, or an objective of `triton-sidecar
drill` was missed; and if a run of the baseline did not get to its end.
"""

import argparse
import asyncio
import math
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace

from benchmarks import report, static_envoy
from benchmarks.report import ms, spread
from sidecar.drill.conduct import Conditions, conduct
from sidecar.drill.injections.processes import triton_frozen, triton_killed
from sidecar.drill.load.process import Asked, Place, RunningLoad, load
from sidecar.drill.load.spec import ClosedLoop, LoadSpec
from sidecar.drill.objectives import Objectives
from sidecar.drill.record import Run
from sidecar.drill.samples import Sample
from sidecar.drill.scenario import Expectation, Injection, Scenario
from sidecar.drill.scenarios.catalog import select
from sidecar.drill.stage.mesh import MeshStage
from sidecar.drill.stop_conditions import Bounds
from sidecar.local.meshfile import Mesh

UNARY, STREAMS = 64, 4  # clients
BEFORE = 1.5  # undisturbed seconds
NEAR = 1.0  # seconds after a fault during which it may delay requests
_SPEC = ClosedLoop(UNARY, STREAMS)
SCENARIOS = select(("crash", "freeze", "graceful-stop", "sidecar-killed"))
# Without the mesh requests fail, and nothing ends a run that has only failures.
_BOUNDS = Bounds(error_rate=1.0, window=120.0)
_FREEZE = 3.0  # seconds without the mesh, where nothing notices it
_STOPPED = 5.0  # seconds until a Triton that was stopped or killed is being restarted


@asynccontextmanager
async def _terminated(stage: MeshStage, victim: str) -> AsyncIterator[None]:
    """SIGTERM to Triton; the supervisor starts another."""
    stage.signal(victim, signal.SIGTERM)
    yield


def _without(title: str, inject: Injection[MeshStage], lasts: float) -> Scenario[MeshStage]:
    expects = Expectation(fails=True, cuts_streams=True)
    return Scenario(title, title, "Clients notice it.", inject, expects=expects, lasts=lasts)


WITHOUT = (
    _without("Triton killed", triton_killed, _STOPPED),
    _without("Triton frozen", triton_frozen, _FREEZE),
    _without("Triton stopped gracefully", _terminated, _STOPPED),
)


@dataclass
class StaticStage(MeshStage):
    """The Tritons of a mesh behind another Envoy, at `address`; the victim is the first one."""

    address: str

    async def primary(self) -> str:
        """The first instance: for that Envoy all are equal."""
        return self.now.instances[0].id

    def loaded(
        self, spec: LoadSpec, *, began: float, seed: int, cached: bool = False
    ) -> AbstractAsyncContextManager[RunningLoad]:
        """Put load on that Envoy."""
        reference, place = self.now.instances[0].triton.grpc, Place(self.log("load"))
        return load(
            spec, self.address, reference, place, began=began, seed=seed, asked=Asked(cached=cached)
        )


async def through_the_mesh(mesh: Mesh, rounds: int) -> dict[str, list[Run]]:
    """The runs of each scenario, by its title."""
    found: dict[str, list[Run]] = {each.title: [] for each in SCENARIOS}
    for number in range(1, rounds + 1):
        for scenario in SCENARIOS:
            run = await _run(MeshStage(mesh.dir), scenario, Conditions(_SPEC, 0, _tell), number)
            found[scenario.title].append(run)
    return found


async def without_the_mesh(mesh: Mesh) -> dict[str, list[Run]]:
    """Each scenario once, with clients of an Envoy with a static file."""
    conditions, found = Conditions(_SPEC, 0, _tell, _BOUNDS), {}
    async with static_envoy.running(mesh) as address:
        for scenario in WITHOUT:
            run = await _run(StaticStage(mesh.dir, address), scenario, conditions, 1)
            found[scenario.title] = [run]
    return found


async def _run(
    stage: MeshStage, scenario: Scenario[MeshStage], conditions: Conditions, number: int
) -> Run:
    undisturbed = replace(scenario, settles=BEFORE)
    return await conduct(stage, undisturbed, Objectives(), conditions, number)


def _tell(step: str) -> None:
    print(step, file=sys.stderr)


def complaints(
    ours: Mapping[str, Sequence[Run]], theirs: Mapping[str, Sequence[Run]]
) -> Iterator[str]:
    """What must not have happened through the mesh, and without it."""
    for title, runs in ours.items():
        yield from (f"through the mesh: {title}: {what}" for run in runs for what in _amiss(run))
    for title, runs in theirs.items():
        for run in runs:
            if run.status not in ("passed", "failed"):
                yield f"without the mesh: {title}: {run.status} {run.reason}".rstrip()


def _amiss(run: Run) -> Iterator[str]:
    """Also what no violation is about: it happened before the fault, or to too many streams."""
    if run.status != "passed":
        yield f"{run.status} {run.reason}".rstrip()
    for violation in run.violations:
        yield f"{violation.code}: expected {violation.expected}, found {violation.found}"
    injected = _injected(run)
    for one in run.samples:
        if one.outcome != "answered" and (one.kind == "unary" or one.ended < injected):
            yield f"{one.kind} {one.outcome} after {one.ended:.1f} s: {one.detail}"
    if (cut := run.figures.streams_cut) > STREAMS:
        yield f"{cut} streams were cut, of {STREAMS} at a time"


# --- figures --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Delays:
    """The latencies of a run's unary requests, in seconds.

    `before` are those of the undisturbed seconds, `near` of those that were in flight at the fault
    or sent within a second of it.
    """

    before: Sequence[float]
    near: Sequence[float]

    @property
    def p99(self) -> float:
        """The 99th percentile without the fault."""
        return report.quantile(self.before, 0.99)

    @property
    def extra(self) -> float:
        """The longest extra delay."""
        return max(self.near, default=math.nan) - self.p99

    @property
    def noise(self) -> float:
        """The same difference without a fault."""
        return max(self.before, default=math.nan) - self.p99


def delays(run: Run) -> Delays:
    """The latencies of answered unary requests around the fault."""
    injected = _injected(run)
    answered = [one for one in _unary(run) if one.outcome == "answered"]
    before = [one for one in answered if one.due >= injected - BEFORE and one.ended < injected]
    near = [one for one in answered if one.due < injected + NEAR and one.ended >= injected]
    return Delays([one.took for one in before], [one.took for one in near])


def outage(run: Run) -> float:
    """Seconds from the first failure to the last."""
    failed = [one.ended for one in _unary(run) if one.outcome == "failed"]
    return max(failed) - min(failed) if failed else 0.0


def _injected(run: Run) -> float:
    """When the fault was injected; infinite if it was not."""
    return next((mark.at for mark in run.marks if mark.event == "injected"), math.inf)


def _unary(run: Run) -> list[Sample]:
    return [one for one in run.samples if one.kind == "unary"]


# --- output ---------------------------------------------------------------------------------


def counts(name: str, runs: Sequence[Run]) -> tuple[str, ...]:
    """The numbers of requests by outcome."""
    figures = [run.figures for run in runs]
    cut = sum(each.streams_cut for each in figures)
    return (
        f"{name}, {len(runs)} x",
        str(sum(each.sent for each in figures)),
        str(sum(each.failed for each in figures)),
        str(sum(each.wrong + each.streams_wrong for each in figures)),
        f"{cut} of {sum(each.streams for each in figures)}",
    )


COUNTS = ("done to the primary", "requests", "failed", "wrong", "streams cut")


def latencies(runs: Sequence[Run]) -> tuple[str, ...]:
    """The latencies of requests."""
    found = [delays(run) for run in runs]
    return (
        spread([each.p99 for each in found]),
        spread([max(each.near, default=math.nan) for each in found]),
        spread([each.extra for each in found]),
        spread([run.figures.slowest for run in runs if run.figures.slowest is not None]),
    )


def undisturbed(runs: Sequence[Run]) -> tuple[str, ...]:
    """The line with which the others are compared."""
    found = [delays(run) for run in runs]
    slowest = spread([max(each.before, default=math.nan) for each in found])
    return (
        f"nothing, {len(found)} x",
        str(sum(len(each.before) for each in found)),
        *("", "", ""),
        spread([each.p99 for each in found]),
        slowest,
        spread([each.noise for each in found]),
        slowest,
    )


LATENCIES = ("p99 before", "slowest near it", "longest extra delay", "slowest until healthy")


def times(name: str, runs: Sequence[Run]) -> tuple[str, ...]:
    """A line of the table of the mesh's reactions."""
    figures = [run.figures for run in runs]
    rows = (
        [each.detection for each in figures],
        [each.decision for each in figures],
        [each.rto for each in figures],
    )
    return name, *(spread([at for at in row if at is not None]) for row in rows)


async def measure(mesh: Mesh, rounds: int) -> int:
    """Measure and print everything; returns the exit status."""
    ours = await through_the_mesh(mesh, rounds)
    report.table(
        "Through the mesh",
        (*COUNTS, *LATENCIES),
        undisturbed([run for runs in ours.values() for run in runs]),
        *((*counts(*item), *latencies(item[1])) for item in ours.items()),
        note="times in ms: least / median / largest; frozen until another instance is primary, and "
        "3 s longer",
    )
    report.table(
        "After the fault, as seen in Consul and by clients",
        ("done to the primary", "verdict changed", "new primary", "the other one answers"),
        *(times(*item) for item in ours.items()),
    )
    theirs = await without_the_mesh(mesh)
    report.table(
        "Without the mesh: an Envoy with a file",
        ("done to one of the two", *COUNTS[1:], "first to last failure", "slowest answer"),
        *(
            (*counts(*item), ms(outage(item[1][0]), 0), ms(item[1][0].figures.slowest or 0, 0))
            for item in theirs.items()
        ),
        note=f"{static_envoy.DESCRIPTION}; frozen for {_FREEZE:g} s",
    )
    found = list(complaints(ours, theirs))
    for line in found[:10]:
        print(line, file=sys.stderr)
    return 1 if found else 0


def main() -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="of each scenario; default 3")
    rounds = parser.parse_args().rounds
    report.begin(f"Failure of the primary: {UNARY} unary clients, {STREAMS} with streams")
    with report.mesh(instances=2) as mesh:
        return asyncio.run(measure(mesh, rounds))


if __name__ == "__main__":
    sys.exit(main())
