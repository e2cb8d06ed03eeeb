"""The answer to whether an instance may be sent requests, and why. Pure; `health` gives it."""

from dataclasses import dataclass, field

from sidecar.verdict import verdict_line
from sidecar.verdict.evidence import Reason
from sidecar.verdict.verdict_line import State

SERVING = frozenset({State.PASSING, State.WARNING})


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer. When it was given does not count when two are compared.

    `fitness` is the state that the findings alone would make. `weight` is the percentage of its
    weight that the instance is to have in WARNING.
    """

    state: State
    reason: Reason
    detail: str = ""
    models: frozenset[str] = frozenset()
    fitness: State = State.STARTING
    weight: int = 50
    at: float = field(default=0.0, compare=False)

    @property
    def serving(self) -> bool:
        """Whether the instance may be sent requests."""
        return self.state in SERVING

    @property
    def unproven(self) -> bool:
        """Whether nothing speaks against the instance, and not enough for it: it has just begun."""
        return self.state is State.STARTING and self.reason is Reason.NOT_PROVEN_YET

    @property
    def leaves(self) -> bool:
        """Whether it was decided that the instance serves no more, however well it is."""
        return self.state in (State.DRAINING, State.MAINTENANCE)

    @property
    def summary(self) -> str:
        """It in one stable line: no figure that changes from one finding to the next."""
        return verdict_line.write(self.state, self.reason, self.detail)


UNPROVEN = Verdict(State.STARTING, Reason.NOT_PROVEN_YET)
