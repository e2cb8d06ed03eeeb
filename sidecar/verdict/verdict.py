"""The verdict: whether an instance may receive requests, and why. Pure; `health` produces it."""

from dataclasses import dataclass, field

from sidecar.verdict import verdict_line
from sidecar.verdict.evidence import Reason
from sidecar.verdict.verdict_line import State

SERVING = frozenset({State.PASSING, State.WARNING})


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an instance may receive requests, and why. Comparisons ignore the time `at`.

    `models` are healthy. `unusable` are the models that may not be used although the instance may
    serve others, each with the reason; empty if it needs all of them.
    `fitness` is the state by the findings alone, without overrides. `weight` is the percentage of
    its weight that the instance keeps in WARNING.
    """

    state: State
    reason: Reason
    detail: str = ""
    models: frozenset[str] = frozenset()
    fitness: State = State.STARTING
    weight: int = 50
    unusable: tuple[tuple[str, Reason], ...] = ()
    at: float = field(default=0.0, compare=False)

    @property
    def serving(self) -> bool:
        """Whether the instance may receive requests."""
        return self.state in SERVING

    @property
    def unproven(self) -> bool:
        """Whether the instance has just started: no evidence against it, not enough for it."""
        return self.state is State.STARTING and self.reason is Reason.NOT_PROVEN_YET

    @property
    def withdrawn(self) -> bool:
        """Whether the instance is withdrawn by decision, whatever its health."""
        return self.state in (State.DRAINING, State.MAINTENANCE)

    @property
    def summary(self) -> str:
        """The verdict in one stable line, without figures that change with each finding."""
        return verdict_line.write(self.state, self.reason, self.detail)


UNPROVEN = Verdict(State.STARTING, Reason.NOT_PROVEN_YET)
