"""Runs a fault as a drill; says what Consul and the victim's sidecar made of it."""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, replace

from sidecar.drill.load.process import RunningLoad
from sidecar.drill.record import Run
from sidecar.drill.samples import Kind, Mark
from sidecar.drill.scenario import Scenario
from sidecar.drill.stage.mesh import MeshStage
from sidecar.drill.stage.waiting import until
from tests.support.drills import drilled
from tests.support.faults.faults import CLIENTS, STREAMS, Fault
from tests.support.mesh.mesh import LiveMesh, newest_load
from tests.support.tcp_proxy import proxied


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run, and the states of the verdict that the victim's sidecar logged, in order.

    They are those from the injection until the fault was about to be removed.
    """

    fault: Fault
    run: Run
    states: tuple[str, ...]

    @property
    def injected(self) -> float:
        """When the fault was injected, on the clock of the run; infinite if it never was."""
        return _first(self.run, "injected", float("inf"))

    @property
    def restored(self) -> float:
        """When it was removed, or infinite."""
        return _first(self.run, "restored", float("inf"))

    @property
    def decisive(self) -> Mark | None:
        """The first verdict with a right reason, until the fault was removed."""
        return next((mark for mark in self._verdicts if mark.reason in self.fault.reasons), None)

    @property
    def reason(self) -> str:
        """The code of the decisive verdict, or empty."""
        return self.decisive.reason if self.decisive else ""

    @property
    def after(self) -> float | None:
        """Seconds from the injection until Consul had the decisive verdict."""
        return self.decisive.at - self.injected if self.decisive else None

    @property
    def intervals(self) -> float | None:
        """The same beyond the fault's window, in intervals of the layer that sees it."""
        if self.after is None:
            return None
        return max(self.after - self.fault.window, 0.0) / self.fault.interval

    @property
    def trouble(self) -> list[str]:
        """How the outcome differs from what the fault must lead to, one line each."""
        run = self.run
        found = [f"{run.status}: {run.reason}"] if run.status in ("aborted", "skipped") else []
        found += [f"{each.code}: {each.expected}, found {each.found}" for each in run.violations]
        return [*found, *self._of_verdict(), *self._of_other_verdicts(), *self._of_answers()]

    def _of_verdict(self) -> Iterator[str]:
        """What is wrong about the verdict that the fault must lead to."""
        fault, states = self.fault, ", ".join(self.states) or "no verdict"
        if not fault.scenario.expects.reasons:
            return
        if fault.state not in self.states:
            yield f"expected {fault.state}, found {states}"
        elif self.decisive is None:
            named = _listed({mark.reason for mark in self._verdicts}) or "no verdict"
            yield f"expected {_listed(fault.reasons)} before the removal, found {named}"

    def _of_other_verdicts(self) -> Iterator[str]:
        """Which verdicts the fault may not lead to."""
        fault = self.fault
        if not fault.state and self.states:
            yield f"expected no verdict, found {', '.join(self.states)}"
        if fault.state != "CRITICAL" and "CRITICAL" in self.states:
            yield f"expected {fault.state or 'no verdict'}, found CRITICAL"
        named = {mark.reason for mark in self._verdicts if mark.status == "warning"}
        if fault.state == "WARNING" and named - fault.reasons:
            yield f"expected {_listed(fault.reasons)}, found {_listed(named)}"

    def _of_answers(self) -> Iterator[str]:
        """What is wrong about the answers, besides what no drill allows."""
        figures = self.run.figures
        wrong: dict[Kind, int] = {"unary": figures.wrong, "stream": figures.streams_wrong}
        for kind, count in wrong.items():
            if count and self.fault.wrong not in (None, kind):
                yield f"expected no wrong answer to {kind} requests, found {count}"
        unary = [sample for sample in self.run.samples if sample.kind == "unary"]
        if (
            self.decisive
            and unary
            and not any(
                sample.outcome == "answered"
                and sample.due > self.decisive.at
                and sample.ended < self.restored
                for sample in unary
            )
        ):
            yield "expected answers between the verdict and the removal, found none"

    @property
    def _verdicts(self) -> list[Mark]:
        """The verdicts of the victim while the fault lasted."""
        return [
            mark
            for mark in self.run.marks
            if mark.event == "verdict" and mark.instance == self.run.victim
            if self.injected <= mark.at <= self.restored
        ]


async def inject(
    mesh: LiveMesh,
    fault: Fault,
    *,
    unary: int = CLIENTS,
    streams: int = STREAMS,
    pause: float | None = None,
    lasts: float = 3.0,
) -> Outcome:
    """Inject a fault into the primary under load, until it has its verdict and `lasts` s longer.

    It lasts longer if its scenario says so, and until clients with unary requests have had answers.
    """
    states: list[str] = []
    async with proxied(mesh) if fault.proxied else nullcontext(mesh) as stage:
        scenario = fault.scenario.lasting(max(lasts, fault.scenario.lasts))
        run = await drilled(
            stage,
            watched(stage, scenario, 2 * unary, states),
            unary=unary,
            streams=streams,
            between=pause,
        )
    return Outcome(fault, run, tuple(states))


def watched(
    mesh: LiveMesh, scenario: Scenario[MeshStage], answers: int, states: list[str]
) -> Scenario[MeshStage]:
    """The scenario, whose fault lasts at least until so many more unary requests were answered.

    `states` gets those of the verdicts that the victim's sidecar logs while it lasts.
    """

    @asynccontextmanager
    async def injection(stage: MeshStage, victim: str) -> AsyncIterator[float | None]:
        part, load = mesh.sidecar_of(victim), newest_load(mesh)
        since = mesh.written(part)
        async with scenario.inject(stage, victim) as ago:
            try:
                yield ago
                start = len(load.samples)
                await until(lambda: _answered(load, start) >= answers, "answers despite the fault")
            finally:
                states.extend(mesh.states(part, since))

    return replace(scenario, inject=injection)


def _answered(load: RunningLoad, start: int) -> int:
    """The unary requests that were answered after so many samples."""
    return sum(each.kind == "unary" and each.outcome == "answered" for each in load.samples[start:])


def _listed(reasons: Iterable[str]) -> str:
    return " or ".join(sorted(filter(None, reasons)))


def _first(run: Run, event: str, otherwise: float) -> float:
    return next((mark.at for mark in run.marks if mark.event == event), otherwise)
