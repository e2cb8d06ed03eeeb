"""Strict mode: nothing serves that is not primary for certain."""

from sidecar.election.lease import Role
from sidecar.election.loop import Election
from sidecar.health import decision
from sidecar.health.assessment import Assessment
from sidecar.health.decision import Override
from sidecar.runtime.clock import Clock
from sidecar.runtime.latest import Latest, first_of
from sidecar.verdict.verdict import Verdict

# The claim ends this many seconds early: Envoy has to notice before anybody else can hold the lock,
# and looks four times a second.
_MARGIN = 1.0
_LATE = 0.05  # seconds after a moment, so that it has passed for certain


class StrictMode:
    """Runs until it is cancelled. `shown` is the verdict as Envoy's checks are to be told it."""

    def __init__(self, election: Election, assessment: Assessment, clock: Clock) -> None:
        self.shown: Latest[Verdict] = Latest(assessment.verdict.value)
        self._election = election
        self._assessment = assessment
        self._clock = clock

    def may_serve(self) -> bool:
        """Whether the role allows to serve at this very moment, whatever any loop has noticed."""
        return self._election.role is Role.PRIMARY and self._election.remaining > _MARGIN

    async def run(self) -> None:
        """Withdraw in time before the claim ends, for ever."""
        election, verdict = self._election, self._assessment.verdict
        while True:
            seen = election.role_epoch.version, verdict.version
            shown, left = verdict.value, election.remaining - _MARGIN
            if not self.may_serve():
                shown = decision.overridden(
                    shown, Override.DRAIN, "it is not certain to be primary"
                )
            self.shown.set(shown)
            pause = max(left, 0.0) + _LATE if election.role is Role.PRIMARY else None
            role, finding = election.role_epoch.changed(seen[0]), verdict.changed(seen[1])
            await first_of(self._clock, pause, role, finding)
