"""Strict mode: only a confirmed primary serves.

Acts: through what it imports or is given.
"""

from sidecar.election.lease import Role
from sidecar.election.loop import Election
from sidecar.health import decision
from sidecar.health.assessment import Assessment
from sidecar.health.decision import Override
from sidecar.runtime.clock import Clock
from sidecar.runtime.latest import Latest, first_of
from sidecar.verdict.verdict import Verdict

# The claim ends this many seconds early: Envoy checks four times a second, and must notice before
# another instance can hold the lock.
_MARGIN = 1.0
_LATE = 0.05  # seconds after a deadline, so that it has certainly passed


class StrictMode:
    """Runs until cancelled. `shown` is the verdict that Envoy's checks get."""

    def __init__(self, election: Election, assessment: Assessment, clock: Clock) -> None:
        self.shown: Latest[Verdict] = Latest(assessment.verdict.value)
        self._election = election
        self._assessment = assessment
        self._clock = clock

    def may_serve(self) -> bool:
        """Whether the role allows it to serve right now, whether or not a loop has noticed."""
        return self._election.role is Role.PRIMARY and self._election.remaining > _MARGIN

    async def run(self) -> None:
        """Withdraw before the claim ends, forever."""
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
