"""The recovery loop: reads the verdict, decides, acts, and tells."""

from collections.abc import Awaitable, Callable

from sidecar.clock import Clock
from sidecar.errors import SidecarError
from sidecar.events import Hook, RecoveryActed, RecoveryDecided
from sidecar.health.verdict import Verdict
from sidecar.latest import Latest, first_of
from sidecar.recovery import decision
from sidecar.recovery.actions import Action
from sidecar.recovery.decision import (
    Act,
    Ask,
    Attempt,
    Decision,
    Facts,
    GiveUp,
    Idle,
    Ledger,
    Others,
    Rules,
    Wait,
)
from sidecar.settings.recovery import RecoverySettings

_OUTCOMES: dict[type[Decision], str] = {Idle: "idle", Wait: "wait", Act: "act", GiveUp: "give up"}


def rules_of(settings: RecoverySettings) -> Rules:
    """The rules that the settings make."""
    return Rules(
        after=settings.after,
        hung_after=settings.after if settings.hung_after is None else settings.hung_after,
        reasons=decision.MENDED if settings.reasons is None else frozenset(settings.reasons),
        budget=settings.budget,
        pause=settings.pause,
        max_pause=settings.max_pause,
        grace=settings.grace,
        forget_after=settings.forget_after,
        dry_run=settings.dry_run,
        allow_others_down=settings.allow_others_down,
    )


class Recovery:
    """Acts on a Triton that stays ill, until it is cancelled.

    `status` tells people what recovery is at. `others` tells how the other instances are; it is
    asked only when nothing else stands in the way of an action.
    """

    def __init__(
        self,
        verdict: Latest[Verdict],
        others: Callable[[], Awaitable[Others]],
        rules: Rules,
        act: Action,
        clock: Clock,
        hook: Hook,
    ) -> None:
        self.status: Latest[str] = Latest("idle")
        self._verdict = verdict
        self._others = others
        self._rules = rules
        self._action = act
        self._clock = clock
        self._hook = hook
        self._ledger = Ledger()
        self._told = RecoveryDecided("idle", "", rules.dry_run, act.name)
        self._reloads = Latest(0)
        self._paused = False

    def configure(self, rules: Rules, act: Action) -> None:
        """Take over what was reloaded; a recovery that gave up begins anew."""
        self._rules, self._action = rules, act
        self._ledger = decision.reloaded(self._ledger, rules)
        self._reloads.set(self._reloads.value + 1)

    def pause(self, paused: bool) -> None:
        """Leave an action that is due until automation goes on."""
        if paused is not self._paused:
            self._paused = paused
            self._reloads.set(self._reloads.value + 1)

    async def run(self) -> None:
        """Decide and act, for ever."""
        while True:
            seen = self._verdict.version, self._reloads.version
            decided = self._decide(None)
            if isinstance(decided, Ask):
                # The answer takes its time: the verdict may be another one by then.
                decided = self._decide(await self._others())
            self._tell(decided)
            if isinstance(decided, Act):
                await self._perform(decided)
            else:
                await self._wait(decided, seen)

    def _decide(self, others: Others | None) -> Decision:
        verdict = self._verdict.value
        facts = Facts(
            verdict.state, verdict.reason, self._clock.now(), verdict.detail, others, self._paused
        )
        self._ledger = decision.observe(self._ledger, facts, self._rules)
        decided = decision.decide(self._ledger, facts, self._rules)
        if isinstance(decided, GiveUp):
            self._ledger = decision.gave_up(self._ledger, decided.why)
        return decided

    def _tell(self, decided: Decision) -> None:
        """Say what was decided, if it is news; an action always is."""
        if isinstance(decided, Ask):
            return
        outcome = _OUTCOMES[type(decided)]
        told = RecoveryDecided(outcome, decided.why, self._rules.dry_run, self._action.name)
        self.status.set(_status(told))
        if told != self._told or isinstance(decided, Act):
            self._hook(told)
        self._told = told

    async def _perform(self, decided: Act) -> None:
        began, error = self._clock.now(), ""
        if not decided.dry_run:
            try:
                await self._action.perform()
            except SidecarError as failure:
                error = str(failure)
        ended = self._clock.now()
        attempt = Attempt(began, ended, error, decided.dry_run)
        self._ledger = decision.acted(self._ledger, attempt)
        if not decided.dry_run:
            self._hook(RecoveryActed(self._action.name, decided.why, ended - began, error))

    async def _wait(self, decided: Decision, seen: tuple[int, int]) -> None:
        """Until there is news, or it is time to decide again."""
        at = decision.wake_at(self._ledger, decided, self._rules)
        await first_of(
            self._clock,
            None if at is None else max(0.0, at - self._clock.now()),
            self._verdict.changed(seen[0]),
            self._reloads.changed(seen[1]),
        )


def _status(told: RecoveryDecided) -> str:
    text = f"{told.outcome}: {told.action}" if told.outcome == "act" else told.outcome
    text = f"{text} ({told.why})" if told.why else text
    return f"{text}, dry run" if told.dry_run else text
