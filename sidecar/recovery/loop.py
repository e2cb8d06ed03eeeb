"""The recovery loop: reads the verdict, decides, acts and reports.

Acts: asyncio.
"""

import asyncio
from collections.abc import Awaitable, Callable

from sidecar.events import Hook, RecoveryActed, RecoveryDecided
from sidecar.recovery import decision
from sidecar.recovery.actions import Action
from sidecar.recovery.decision import (
    Act,
    Attempt,
    Decision,
    Facts,
    GatherFacts,
    GiveUp,
    Idle,
    Ledger,
    Loadable,
    Peers,
    RecoveryRules,
    Wait,
)
from sidecar.recovery.model_loading import ServedModels
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import Disabled, SidecarError
from sidecar.runtime.latest import Latest, first_of
from sidecar.verdict.verdict import Verdict
from sidecar.verdict.verdict_line import State

_OUTCOMES: dict[type[Decision], str] = {Idle: "idle", Wait: "wait", Act: "act", GiveUp: "give up"}


_NOTHING = Loadable()
_LOAD = "load models"


class Recovery:
    """Acts on a Triton that stays unhealthy, until cancelled.

    `status` is the state of recovery as text. `others` reads the other instances, `models` which
    models are loaded; both are read only when nothing else prevents an action. Without an action,
    or without `models`, the rules must not require one.
    """

    def __init__(
        self,
        verdict: Latest[Verdict],
        others: Callable[[], Awaitable[Peers]],
        rules: RecoveryRules,
        act: Action | None,
        clock: Clock,
        hook: Hook,
        models: ServedModels | None = None,
    ) -> None:
        self.status: Latest[str] = Latest("idle")
        self._verdict = verdict
        self._others = others
        self._rules = rules
        self._action = act
        self._clock = clock
        self._hook = hook
        self._ledger = Ledger()
        self._models = models
        self._last_event = RecoveryDecided("idle", "", rules.dry_run, self._name(Idle()))
        self._reloads = Latest(0)
        self._paused = False

    def configure(self, rules: RecoveryRules, act: Action | None) -> None:
        """Apply reloaded settings; a recovery that gave up starts over."""
        self._rules, self._action = rules, act
        self._ledger = decision.reloaded(self._ledger, rules)
        self._reloads.set(self._reloads.value + 1)

    def pause(self, paused: bool) -> None:
        """Hold back due actions while automation is paused."""
        if paused is not self._paused:
            self._paused = paused
            self._reloads.set(self._reloads.value + 1)

    async def run(self) -> None:
        """Decide and act, forever."""
        while True:
            seen = self._verdict.version, self._reloads.version
            decided = self._decide(None)
            if isinstance(decided, GatherFacts):
                # The answers take time, so read the verdict again afterwards.
                decided = self._decide(*await self._look())
            self._report(decided)
            if isinstance(decided, Act):
                await self._perform(decided)
            else:
                await self._wait(decided, seen)

    async def _look(self) -> tuple[Peers, Loadable]:
        # Without restarts the other instances do not matter.
        others = self._others if self._rules.reasons else _no_others
        if self._models is None:
            return await others(), _NOTHING
        return await asyncio.gather(others(), self._models.look())

    def _decide(self, others: Peers | None, models: Loadable = _NOTHING) -> Decision:
        verdict, now = self._verdict.value, self._clock.now()
        if verdict.serving and self._models:
            self._models.forget()
        facts = Facts(
            verdict.state, verdict.reason, now, verdict.detail, others, self._paused, models
        )
        self._ledger = decision.observe(self._ledger, facts, self._rules)
        decided = decision.decide(self._ledger, facts, self._rules)
        if isinstance(decided, GiveUp):
            self._ledger = decision.gave_up(self._ledger, decided.why)
        return decided

    def _report(self, decided: Decision) -> None:
        """Report a decision if it is new; an action always is."""
        if isinstance(decided, GatherFacts):
            return
        outcome = _OUTCOMES[type(decided)]
        event = RecoveryDecided(outcome, decided.why, self._rules.dry_run, self._name(decided))
        self.status.set(_status(event))
        if event != self._last_event or isinstance(decided, Act):
            self._hook(event)
        self._last_event = event

    async def _perform(self, decided: Act) -> None:
        began, error, disabled = self._clock.now(), "", False
        if not decided.dry_run:
            try:
                await self._run(decided)
            except SidecarError as failure:
                error, disabled = str(failure), isinstance(failure, Disabled)
        ended = self._clock.now()
        attempt = Attempt(began, ended, error, decided.dry_run, bool(decided.load))
        if not disabled:  # a load that Triton does not support costs no budget
            self._ledger = decision.acted(self._ledger, attempt)
        if not decided.dry_run:
            self._hook(RecoveryActed(self._name(decided), decided.why, ended - began, error))

    async def _run(self, decided: Act) -> None:
        """Load missing models, or restart."""
        if decided.load and self._models:
            await self._models.load(decided.load, self._rules.load_timeout, self._wanted)
        elif self._action:
            await self._action.perform()

    def _wanted(self) -> bool:
        """Whether missing models must still be loaded."""
        critical = self._verdict.value.state is State.CRITICAL
        return critical and self._rules.load and not self._paused

    def _name(self, decided: Decision) -> str:
        """What the action is, or would be."""
        if isinstance(decided, Act) and decided.load:
            return f"load {', '.join(decided.load)}"
        return self._action.name if self._action else _LOAD

    async def _wait(self, decided: Decision, seen: tuple[int, int]) -> None:
        """Wait for a change, or until it is time to decide again."""
        at = decision.wake_at(self._ledger, decided, self._rules)
        await first_of(
            self._clock,
            None if at is None else max(0.0, at - self._clock.now()),
            self._verdict.changed(seen[0]),
            self._reloads.changed(seen[1]),
        )


async def _no_others() -> Peers:
    return Peers()


def _status(event: RecoveryDecided) -> str:
    text = f"{event.outcome}: {event.action}" if event.outcome == "act" else event.outcome
    text = f"{text} ({event.why})" if event.why else text
    return f"{text}, dry run" if event.dry_run else text
