"""Compares the instance's model set with the primary's, and publishes or refuses a difference.

Acts: through what it imports or is given.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sidecar.election.keys.orders import ElectionState
from sidecar.election.role.model_set import OwnModelSet, Stance, compare
from sidecar.election.rules import ElectionRules
from sidecar.events import Hook, ModelSetCompared
from sidecar.health.assessment import Assessment
from sidecar.runtime.clock import Clock
from sidecar.runtime.latest import Latest, first_of
from sidecar.verdict.evidence import SERVER, Finding, Layer, Reason
from sidecar.verdict.verdict import Verdict


@dataclass(frozen=True, slots=True)
class ModelSetInputs:
    """The cells that are compared, at each change.

    `rules` has the declared set and the policy, `state` the election's keys, and `model_set` the
    digest of the set served here, "" while it is unknown.
    """

    rules: Latest[ElectionRules]
    state: Latest[ElectionState | None]
    model_set: Latest[str]


class ModelSetCheck:
    """Runs until cancelled. `differs` says how the model sets differ, or "".

    Args:
        instance: the id of this instance.
        cells: what is compared.
        assessment: gets the finding about the model set.
        clock: the loop's clock.
        hook: gets an event for each change.
        changed: called after each change.
        wanted: returns the digest of the model set that a primary must serve, or "" for any.
    """

    def __init__(
        self,
        instance: str,
        cells: ModelSetInputs,
        assessment: Assessment,
        clock: Clock,
        hook: Hook,
        changed: Callable[[], None],
        wanted: Callable[[], str],
    ) -> None:
        self.differs: Latest[str] = Latest("")
        self._instance = instance
        self._cells = cells
        self._assessment = assessment
        self._clock = clock
        self._hook = hook
        self._changed = changed
        self._wanted = wanted

    async def run(self) -> None:
        """Compare at each change, forever."""
        verdict, stance = self._assessment.verdict, Stance()
        last, cells = None, self._cells
        while True:
            seen = cells.rules.version, cells.state.version, cells.model_set.version
            rules, served = cells.rules.value, verdict.value.serving
            own = OwnModelSet(cells.model_set.value, rules.decision.declared, rules.refuses)
            stance = compare(stance, own, cells.state.value, self._instance, serves=served)
            found = stance.differs, stance.refuses
            if found != last:
                last = found
                self._publish(*found)
            await first_of(
                self._clock,
                None,
                cells.rules.changed(seen[0]),
                cells.state.changed(seen[1]),
                cells.model_set.changed(seen[2]),
                _turned(verdict, served),
            )

    async def verify(self) -> str:
        """What is wrong with the model set that was loaded on promotion, or ""."""
        model_set = self._cells.model_set
        while not model_set.value:
            await model_set.changed(model_set.version)
        served, wanted = model_set.value, self._wanted()
        if not self._cells.rules.value.refuses or not wanted or wanted == served:
            return ""
        return f"it has loaded the model set {served}, expected {wanted}"

    def _publish(self, differs: str, refuses: bool) -> None:
        self.differs.set(differs)
        self._hook(ModelSetCompared(differs))
        reason = Reason.MODEL_SET_DIFFERS if refuses else Reason.OK
        self._assessment.conclude(
            Finding(Layer.MODEL_SET, SERVER, reason, differs if refuses else "")
        )
        self._changed()


async def _turned(verdict: Latest[Verdict], served: bool) -> None:
    """Wait until the instance starts or stops serving."""
    async for found in verdict:
        if found.serving != served:
            return
