"""Runs a fault as a drill; says what Consul and the victim's sidecar made of it."""

from contextlib import nullcontext
from dataclasses import dataclass

from sidecar.drill.record import Run
from sidecar.drill.samples import Mark
from tests.support.drills import drilled
from tests.support.faults.faults import CLIENTS, STREAMS, Fault
from tests.support.mesh.mesh import LiveMesh
from tests.support.tcp_proxy import proxied


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run, and the states of the verdict that the victim's sidecar logged, in order."""

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
        fault, run = self.fault, self.run
        found = [f"{run.status}: {run.reason}"] if run.status in ("aborted", "skipped") else []
        found += [f"{each.code}: {each.expected}, found {each.found}" for each in run.violations]
        if not fault.state and self.states:
            found.append(f"expected no verdict, found {', '.join(self.states)}")
        if fault.state != "CRITICAL" and "CRITICAL" in self.states:
            found.append(f"expected {fault.state or 'no verdict'}, found CRITICAL")
        if fault.scenario.expects.reasons and fault.state not in self.states:
            found.append(f"expected {fault.state}, found {', '.join(self.states) or 'no verdict'}")
        named = {mark.reason for mark in self._verdicts if mark.status == "warning"}
        if fault.state == "WARNING" and named - fault.reasons:
            found.append(f"expected one of {sorted(fault.reasons)}, found {sorted(named)}")
        return found

    @property
    def _verdicts(self) -> list[Mark]:
        """The verdicts of the victim while the fault lasted."""
        return [
            mark
            for mark in self.run.marks
            if mark.event == "verdict" and mark.instance == self.run.victim
            if self.injected <= mark.at <= self.restored
        ]


async def injected(
    mesh: LiveMesh,
    fault: Fault,
    *,
    unary: int = CLIENTS,
    streams: int = STREAMS,
    pause: float | None = None,
    lasts: float = 3.0,
) -> Outcome:
    """Inject a fault into the primary under load, until it has its verdict and `lasts` s longer."""
    sidecars = {each.id: mesh.sidecar_of(each.id) for each in mesh.now.instances}
    since = {name: mesh.written(part) for name, part in sidecars.items()}
    async with proxied(mesh) if fault.proxied else nullcontext(mesh) as stage:
        scenario = fault.scenario.lasting(lasts)
        run = await drilled(stage, scenario, unary=unary, streams=streams, between=pause)
    logged = mesh.events(sidecars[run.victim], since[run.victim]) if run.victim else ()
    changes = [each["after"] for each in logged if each["event"] == "verdict_changed"]
    return Outcome(fault, run, tuple(change.partition(" ")[0] for change in changes))


def _first(run: Run, event: str, otherwise: float) -> float:
    return next((mark.at for mark in run.marks if mark.event == event), otherwise)
