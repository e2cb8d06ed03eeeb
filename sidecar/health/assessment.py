"""The assessment of one Triton: collects the findings of all probes and sets the verdict.

Acts: through what it imports or is given.
"""

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
    """`verdict` is the result of everything observed; `restarts` counts restarts of Triton."""

    def __init__(
        self, models: Sequence[str], rules: Latest[ProbeRules], clock: Clock, hook: Hook
    ) -> None:
        self.verdict: Latest[Verdict] = Latest(replace(UNPROVEN, at=clock.now()))
        self.restarts: Latest[int] = Latest(0)
        self._history = decision.begin(models, clock.now())
        self._rules = rules
        # The reason of each override; the first with a reason applies.
        self._overrides: dict[Override, str | None] = dict.fromkeys(
            (Override.DRAIN, Override.MAINTAIN, Override.STAY_COLD)
        )
        self._clock = clock
        self._hook = hook

    def observe(self, *findings: Finding) -> None:
        """Take findings into account; without any, only the time that has passed."""
        if findings:
            self._hook(Probed(findings))
        rules, now = self._rules.value.track, self._clock.now()
        known = self._history
        self._history, fitness = decision.assess(known, findings, rules, now)
        if expired := decision.expired(known, self._history):
            self._hook(Probed(expired))
        before = self.verdict.value
        active = ((each, why) for each, why in self._overrides.items() if why is not None)
        override, why = next(active, (Override.SERVE, ""))
        if override is Override.STAY_COLD:
            verdict = decision.cold(self._history, why, now)
        else:
            verdict = decision.overridden(fitness, override, why)
        self.verdict.set(verdict)
        if verdict != before:
            self._hook(VerdictChanged(before, verdict))

    def conclude(self, finding: Finding) -> None:
        """Take a finding as certain: it is not a sample and needs no repetition."""
        self.observe(*[finding] * self._rules.value.track.rise)

    def expect(self, bounds: Mapping[Key, float]) -> None:
        """Set for how many seconds these layers' evidence counts without another finding."""
        self._history = decision.expect(self._history, bounds)

    @property
    def evidence(self) -> tuple[Finding, ...]:
        """Every layer's last finding."""
        return decision.evidence(self._history)

    def restarted(self) -> None:
        """Triton was restarted: everything has to be proven again, and GPU findings are reset."""
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
        """Whether none of a subject's layers needs another probe soon."""
        return all(self._history.settled(layer, subject) for layer in layers)

    def drain(self, why: str) -> None:
        """Withdraw permanently: NOT_SERVING from now on, whatever the findings."""
        self._set_override(Override.DRAIN, why)

    def maintain(self, why: str | None) -> None:
        """Enter maintenance for a reason, or leave it with None."""
        self._set_override(Override.MAINTAIN, why)

    def enter_cold_standby(self, why: str) -> None:
        """Become a cold standby, whose models need not be loaded, for a reason."""
        self._set_override(Override.STAY_COLD, why)

    def leave_cold_standby(self) -> None:
        """Serve from now on, once every model has been proven again."""
        if self._overrides[Override.STAY_COLD] is not None:
            self._history = decision.restarted(self._history)
            self._set_override(Override.STAY_COLD, None)

    def _set_override(self, override: Override, why: str | None) -> None:
        self._overrides[override] = why
        self.observe()
