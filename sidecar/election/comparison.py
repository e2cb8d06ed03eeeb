"""Whether its own model set is the primary's: shown, and if configured, refused to serve."""

from collections.abc import Callable

from sidecar.clock import Clock
from sidecar.election.agreement import Own, Stance, compare
from sidecar.election.orders import Board
from sidecar.events import Hook, ModelSetCompared
from sidecar.health.assessment import Assessment
from sidecar.health.evidence import SERVER, Finding, Layer, Reason
from sidecar.health.verdict import Verdict
from sidecar.latest import Latest, first_of
from sidecar.settings.election import ElectionSettings


class Comparison:
    """Runs until it is cancelled. `differs` tells whose model set is another one, or nothing.

    Args:
        instance: this one.
        settings: what is declared and allowed; may be set anew.
        board: the election as Consul has it.
        model_set: the digest of what is served here, "" while it is not known.
        assessment: is told of a set that is refused.
        clock: the loop's.
        hook: is told of each change.
        changed: called after each change.
        wanted: the digest of the model set that a primary has to serve, or "" for any.
    """

    def __init__(
        self,
        instance: str,
        settings: Latest[ElectionSettings],
        board: Latest[Board | None],
        model_set: Latest[str],
        assessment: Assessment,
        clock: Clock,
        hook: Hook,
        changed: Callable[[], None],
        wanted: Callable[[], str],
    ) -> None:
        self.differs: Latest[str] = Latest("")
        self._instance = instance
        self._settings = settings
        self._board = board
        self._model_set = model_set
        self._assessment = assessment
        self._clock = clock
        self._hook = hook
        self._changed = changed
        self._wanted = wanted

    async def run(self) -> None:
        """Compare at each change, for ever."""
        verdict, stance = self._assessment.verdict, Stance()
        told = None
        while True:
            seen = self._settings.version, self._board.version, self._model_set.version
            settings, served = self._settings.value, verdict.value.serving
            own = Own(
                self._model_set.value, settings.model_set or "", settings.mismatch == "refuse"
            )
            stance = compare(stance, own, self._board.value, self._instance, serves=served)
            found = stance.differs, stance.refuses
            if found != told:
                told = found
                self._tell(*found)
            await first_of(
                self._clock,
                None,
                self._settings.changed(seen[0]),
                self._board.changed(seen[1]),
                self._model_set.changed(seen[2]),
                _turned(verdict, served),
            )

    async def verify(self) -> str:
        """What is wrong with the model set that was loaded on promotion, or nothing."""
        while not self._model_set.value:
            await self._model_set.changed(self._model_set.version)
        settings, served = self._settings.value, self._model_set.value
        wanted = self._wanted()
        if settings.mismatch == "serve" or not wanted or wanted == served:
            return ""
        return f"it has loaded the model set {served}, expected {wanted}"

    def _tell(self, differs: str, refuses: bool) -> None:
        self.differs.set(differs)
        self._hook(ModelSetCompared(differs))
        reason = Reason.MODEL_SET_DIFFERS if refuses else Reason.OK
        self._assessment.conclude(
            Finding(Layer.MODEL_SET, SERVER, reason, differs if refuses else "")
        )
        self._changed()


async def _turned(verdict: Latest[Verdict], served: bool) -> None:
    """Wait until the instance serves that did not, or the other way round."""
    async for found in verdict:
        if found.serving != served:
            return
