"""What is known of one Triton: takes findings from every probe, remembers, sets the verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sidecar.events import Hook, Probed, VerdictChanged
from sidecar.health import decision
from sidecar.health.decision import Key, Override
from sidecar.health.rules import ProbeRules
from sidecar.runtime.clock import Clock
from sidecar.runtime.latest import Latest
from sidecar.verdict.evidence import SERVER, Finding, Layer, Level
from sidecar.verdict.verdict import UNPROVEN, Verdict


class Assessment:
    """`verdict` holds what follows from all that was observed; `restarts` counts Triton's."""

    def __init__(
        self, models: Sequence[str], rules: Latest[ProbeRules], clock: Clock, hook: Hook
    ) -> None:
        self.verdict: Latest[Verdict] = Latest(replace(UNPROVEN, at=clock.now()))
        self.restarts: Latest[int] = Latest(0)
        self._history = decision.begin(models, clock.now())
        self._rules = rules
        # Why something was decided about the instance; the first that is there counts.
        self._overrides: dict[Override, str | None] = dict.fromkeys(
            (Override.DRAIN, Override.MAINTAIN, Override.STAY_COLD)
        )
        self._clock = clock
        self._hook = hook

    def observe(self, *findings: Finding) -> None:
        """Take findings into account; without any, just the time that has passed."""
        if findings:
            self._hook(Probed(findings))
        rules, now = self._rules.value.track, self._clock.now()
        known = self._history
        self._history, fitness = decision.assess(known, findings, rules, now)
        if expired := decision.expired(known, self._history):
            self._hook(Probed(expired))
        before = self.verdict.value
        decided = ((order, why) for order, why in self._overrides.items() if why is not None)
        order, why = next(decided, (Override.SERVE, ""))
        if order is Override.STAY_COLD:
            verdict = decision.cold(self._history, why, now)
        else:
            verdict = decision.overridden(fitness, order, why)
        self.verdict.set(verdict)
        if verdict != before:
            self._hook(VerdictChanged(before, verdict))

    def conclude(self, finding: Finding) -> None:
        """Take a finding for certain: it is no sample, and needs no repetition."""
        self.observe(*[finding] * self._rules.value.track.rise)

    def expect(self, bounds: Mapping[Key, float]) -> None:
        """Take what these layers have proven for so many seconds only without another finding."""
        self._history = decision.expect(self._history, bounds)

    @property
    def evidence(self) -> tuple[Finding, ...]:
        """What every layer has found last."""
        return decision.evidence(self._history)

    def restarted(self) -> None:
        """Triton was started anew: everything is to be proven again, and the GPU is forgiven."""
        self._history = decision.restarted(self._history)
        self._history = decision.forget(self._history, Layer.GPU, SERVER)
        self.restarts.set(self.restarts.value + 1)
        self.observe()

    def is_down(self, *layers: Layer, subject: str) -> bool:
        """Whether one of a subject's layers is critical."""
        tracks = self._history.tracks
        found = (tracks.get((layer, subject)) for layer in layers)
        return any(track is not None and track.level is Level.CRITICAL for track in found)

    def settled(self, *layers: Layer, subject: str) -> bool:
        """Whether none of a subject's layers needs another look soon."""
        return all(self._history.settled(layer, subject) for layer in layers)

    def drain(self, why: str) -> None:
        """Withdraw for good: NOT_SERVING from now on, whatever is found."""
        self._set_override(Override.DRAIN, why)

    def maintain(self, why: str | None) -> None:
        """Be in maintenance for a reason, or with None not any more."""
        self._set_override(Override.MAINTAIN, why)

    def enter_cold_standby(self, why: str) -> None:
        """Be a cold standby, whose models are not looked for, for a reason."""
        self._set_override(Override.STAY_COLD, why)

    def leave_cold_standby(self) -> None:
        """Serve from now on, when every model has been proven anew."""
        if self._overrides[Override.STAY_COLD] is not None:
            self._history = decision.restarted(self._history)
            self._set_override(Override.STAY_COLD, None)

    def _set_override(self, order: Override, why: str | None) -> None:
        self._overrides[order] = why
        self.observe()
