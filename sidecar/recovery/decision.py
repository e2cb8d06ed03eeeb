"""The decision on when to restart an unhealthy Triton or load its models, and how often. Pure.

`observe` notes what the verdict means for recovery, `decide` returns the next step, and the loop
reports back through the functions that return a new `Ledger`. All times are seconds on the
monotonic clock.
"""

from dataclasses import dataclass, replace

from sidecar.verdict.evidence import HUNG, Level, Reason
from sidecar.verdict.verdict_line import State

HOUR = 3600.0
_LOOK_AGAIN = 2.0  # seconds until instances and models are read again
_SELDOM = 30.0  # seconds, if only an outside change can help
_DOUBLINGS = 32  # beyond every pause that can be set, and safe for a float

# What a restart does not fix: an operator's decision, wrong files, or a GPU to be replaced.
_NOT_FIXED = frozenset(
    {
        *(Reason.NOT_PROVEN_YET, Reason.CONFIG, Reason.MODEL_WRONG_VERSION),
        *(Reason.DRAINING, Reason.MAINTENANCE, Reason.COLD_STANDBY),
        *(Reason.MODEL_SET_DIFFERS, Reason.GPU_ROW_REMAP_FAILED),
    }
)
# A reason of level WARNING causes no restart, whatever else keeps the instance from serving.
FIXED_BY_RESTART = frozenset(each for each in Reason if each.level is Level.CRITICAL) - _NOT_FIXED


@dataclass(frozen=True, slots=True)
class RecoveryRules:
    """The bounds of recovery; durations are seconds.

    `after` is how long an instance must be unhealthy before an action, `hung_after` the same for a
    reason in `HUNG`, and `unanswered_after` for a server that answers no request.
    Between two actions lies `pause`, doubled with each action up to `max_pause`, and never shorter
    than `grace`, in which a restarted Triton loads its models. After `forget_after` of health the
    pauses start over, and a recovery that gave up is ready again.

    A Triton is restarted for `reasons`. With `load`, a served model that is not loaded is loaded,
    and a restart follows only if that fails; a model may be loading for `load_timeout`.
    """

    after: float = 30.0
    hung_after: float = 30.0
    unanswered_after: float = 30.0
    reasons: frozenset[Reason] = FIXED_BY_RESTART
    budget: int = 3
    pause: float = 30.0
    max_pause: float = 600.0
    grace: float = 60.0
    forget_after: float = 600.0
    dry_run: bool = False
    allow_others_down: bool = False
    load: bool = True
    load_timeout: float = 300.0

    def delay(self, reason: Reason) -> float:
        """Seconds that an instance must be unhealthy for a reason before an action."""
        if reason is Reason.SERVER_UNANSWERED:
            return self.unanswered_after
        return self.hung_after if reason in HUNG else self.after


@dataclass(frozen=True, slots=True)
class Peers:
    """The other instances of the service: how many, how many down, or why that is unknown."""

    count: int = 0
    down: int = 0
    unknown: str = ""


@dataclass(frozen=True, slots=True)
class Loadable:
    """Which served models could be loaded, which are loading, or why that is unknown.

    `disabled`: Triton has answered that it loads none on demand.
    """

    unloaded: tuple[str, ...] = ()
    loading: tuple[str, ...] = ()
    unknown: str = ""
    disabled: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts for a decision.

    `others` is None until the other instances were read, and `models` is unknown until then too;
    `paused` is whether automation is paused.
    """

    state: State
    reason: Reason
    now: float
    detail: str = ""
    others: Peers | None = None
    paused: bool = False
    models: Loadable = Loadable()


@dataclass(frozen=True, slots=True)
class Attempt:
    """One action; `error` is empty if it succeeded. In a dry run it was only simulated.

    `loaded`: it loaded models. `completing`: only those that the preceding restart left unloaded,
    so that the two count as one recovery.
    """

    began: float
    ended: float
    error: str = ""
    dry_run: bool = False
    loaded: bool = False
    completing: bool = False


@dataclass(frozen=True, slots=True)
class Ledger:
    """The memory of recovery.

    `unhealthy_since` and `healthy_since` are None while that does not apply. `attempts` are those
    in the hour before the newest, oldest first; `streak` of them had no healthy period in between,
    `pretended` of these in a dry run. `gave_up` is why it gave up, if it did. `restarted`: the
    newest was a restart that succeeded, and the instance has not been healthy since.
    `closed` is whether the port refuses connections now, `opened` when it accepted them again since
    the instance became unhealthy: a Triton that hangs since then is not the one that closed it.
    """

    unhealthy_since: float | None = None
    healthy_since: float | None = None
    attempts: tuple[Attempt, ...] = ()
    streak: int = 0
    pretended: int = 0
    gave_up: str = ""
    restarted: bool = False
    closed: bool = False
    opened: float | None = None


@dataclass(frozen=True, slots=True)
class Idle:
    """There is nothing to recover from, or nothing that an action could fix."""

    why: str = ""


@dataclass(frozen=True, slots=True)
class Wait:
    """Not yet: decide again at `until`, or on a change; None waits for a change only."""

    until: float | None
    why: str


@dataclass(frozen=True, slots=True)
class GatherFacts:
    """Only the other instances and the loaded models remain to be read."""


@dataclass(frozen=True, slots=True)
class Act:
    """Load these models, or if there are none restart; in a dry run only report it."""

    why: str
    dry_run: bool = False
    load: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Actions do not help: stop, and alert the operator."""

    why: str


Decision = Idle | Wait | GatherFacts | Act | GiveUp


def observe(ledger: Ledger, facts: Facts, rules: RecoveryRules) -> Ledger:
    """After the verdict was read, or time has passed."""
    now = facts.now
    unhealthy = _unhealthy(facts, rules)
    healthy = facts.state in (State.PASSING, State.WARNING)
    closed = unhealthy and facts.reason is Reason.PORT_UNREACHABLE
    ledger = replace(
        ledger,
        unhealthy_since=_since(ledger.unhealthy_since, unhealthy, now),
        closed=closed,
        opened=_since(ledger.opened, unhealthy and not closed and _was_closed(ledger), now),
        healthy_since=_since(ledger.healthy_since, healthy, now),
        restarted=ledger.restarted and not healthy,
    )
    if ledger.healthy_since is not None and now >= ledger.healthy_since + rules.forget_after:
        return replace(ledger, streak=0, pretended=0, gave_up="")
    return ledger


def acted(ledger: Ledger, attempt: Attempt) -> Ledger:
    """After an action, or a simulated one in a dry run."""
    recent = _within_an_hour(ledger, attempt.began)
    completing = attempt.loaded and ledger.restarted
    return replace(
        ledger,
        attempts=(*recent, replace(attempt, completing=completing)),
        streak=ledger.streak + (not completing),
        pretended=ledger.pretended + (attempt.dry_run and not completing),
        restarted=not attempt.loaded and not attempt.error,
    )


def gave_up(ledger: Ledger, why: str) -> Ledger:
    """After `GiveUp`: it holds until the instance has been healthy for long enough."""
    return replace(ledger, gave_up=why)


def reloaded(ledger: Ledger, rules: RecoveryRules) -> Ledger:
    """After a reload: a recovery that gave up starts over, with a new budget.

    Without a dry run, earlier simulated actions no longer count.
    """
    if ledger.gave_up:
        return Ledger(healthy_since=ledger.healthy_since)
    if rules.dry_run:
        return ledger
    taken = tuple(attempt for attempt in ledger.attempts if not attempt.dry_run)
    streak = ledger.streak - ledger.pretended if taken else 0
    restarted = ledger.restarted and ledger.attempts[-1:] == taken[-1:]
    return replace(ledger, attempts=taken, streak=streak, pretended=0, restarted=restarted)


def decide(ledger: Ledger, facts: Facts, rules: RecoveryRules) -> Decision:
    """The next step, for a ledger that has observed these facts: the first guard to object wins."""
    for guard in _GUARDS:
        if (decision := guard(ledger, facts, rules)) is not None:
            return decision
    return Act(_cause(facts), rules.dry_run, _to_load(ledger, facts, rules))


def wake_at(ledger: Ledger, decision: Decision, rules: RecoveryRules) -> float | None:
    """When to decide again if nothing changes, or None if only a change matters."""
    if isinstance(decision, Wait):
        return decision.until
    if ledger.healthy_since is not None and (ledger.streak or ledger.gave_up):
        return ledger.healthy_since + rules.forget_after
    return None


def pause(ledger: Ledger, rules: RecoveryRules) -> float:
    """Seconds between the end of the last action and the next one."""
    doubled = rules.pause * 2.0 ** min(ledger.streak - 1, _DOUBLINGS)
    return max(rules.grace, min(doubled, rules.max_pause))


def _given_up(ledger: Ledger, facts: Facts, rules: RecoveryRules) -> Decision | None:
    return GiveUp(ledger.gave_up) if ledger.gave_up else None


def _nothing_to_fix(ledger: Ledger, facts: Facts, rules: RecoveryRules) -> Decision | None:
    if _unhealthy(facts, rules):
        return None
    explained = facts.state is State.CRITICAL and rules.reasons
    return Idle(f"no action on {facts.reason}" if explained else "")


def _too_early(ledger: Ledger, facts: Facts, rules: RecoveryRules) -> Decision | None:
    delay = rules.delay(facts.reason)
    since = facts.now if ledger.unhealthy_since is None else ledger.unhealthy_since
    due = since + delay
    if ledger.opened is not None:  # hung no longer than that, though unhealthy for longer
        due = max(due, min(ledger.opened + delay, since + rules.after))
    if facts.now >= due:
        return None
    return Wait(due, f"{facts.reason} for less than {delay:g} s so far")


def _settling(ledger: Ledger, facts: Facts, rules: RecoveryRules) -> Decision | None:
    if not ledger.streak:
        return None
    length = pause(ledger, rules)
    until = ledger.attempts[-1].ended + length
    if facts.now >= until:
        return None
    return Wait(until, f"pausing for {length:g} s after action {ledger.streak} in a row")


def _paused(ledger: Ledger, facts: Facts, rules: RecoveryRules) -> Decision | None:
    """Before the budget is checked: a pause costs none, and recovery does not give up in it."""
    return Wait(None, f"automation is paused; {_cause(facts)}") if facts.paused else None


def _spent(ledger: Ledger, facts: Facts, rules: RecoveryRules) -> Decision | None:
    if ledger.restarted and _loadable(facts, rules):  # loading models may complete the restart
        return None
    return _unaffordable(ledger, facts, rules)


def _unaffordable(ledger: Ledger, facts: Facts, rules: RecoveryRules) -> Decision | None:
    """Once all is known: an action that completes no restart needs its own budget."""
    recent = _within_an_hour(ledger, facts.now)
    spent = sum(not attempt.completing for attempt in recent)
    if spent < rules.budget or (ledger.restarted and _to_load(ledger, facts, rules)):
        return None
    return GiveUp(f"{facts.reason} after {spent} actions within an hour")


def _unseen(ledger: Ledger, facts: Facts, rules: RecoveryRules) -> Decision | None:
    if facts.others is not None:
        return None
    return GatherFacts() if _loadable(facts, rules) or _others_count(facts, rules) else None


def _models(ledger: Ledger, facts: Facts, rules: RecoveryRules) -> Decision | None:
    """Wait for models that are loading, and do nothing while that is unknown."""
    if not _loadable(facts, rules):
        return None
    models, until = facts.models, facts.now + _LOOK_AGAIN
    if models.unknown:
        return Wait(until, f"cannot tell which models are loaded: {models.unknown}")
    since = facts.now if ledger.unhealthy_since is None else ledger.unhealthy_since
    if ledger.attempts:  # the last action may have started the loading
        since = max(since, ledger.attempts[-1].ended)
    if models.loading and facts.now < since + rules.load_timeout:
        return Wait(until, f"{', '.join(models.loading)}: being loaded")
    if facts.reason in rules.reasons or _to_load(ledger, facts, rules):
        return None
    # A change of the index is not pushed, so look again; a Triton that can load models is a change.
    seldom = None if models.disabled else facts.now + _SELDOM
    return Wait(seldom, f"{_cause(facts)}: there is no model to load")


def _others(ledger: Ledger, facts: Facts, rules: RecoveryRules) -> Decision | None:
    if not _others_count(facts, rules) or _to_load(ledger, facts, rules) or facts.others is None:
        return None
    if facts.others.unknown:
        why = f"cannot tell the state of the other instances: {facts.others.unknown}"
    elif facts.others.down:
        why = f"{facts.others.down} of {facts.others.count} other instances are down"
    else:
        return None
    return Wait(facts.now + _LOOK_AGAIN, why)


_GUARDS = (
    *(_given_up, _nothing_to_fix, _too_early, _settling, _paused, _spent),
    *(_unseen, _models, _unaffordable, _others),
)


def _others_count(facts: Facts, rules: RecoveryRules) -> bool:
    """Whether other instances that are down prevent a restart.

    Not if this server answers nothing, not even liveness: a restart then loses nothing.
    """
    return not rules.allow_others_down and facts.reason is not Reason.SERVER_UNANSWERED


def _loadable(facts: Facts, rules: RecoveryRules) -> bool:
    """Whether an unloaded model may be the reason."""
    return rules.load and facts.reason is Reason.MODEL_NOT_READY


def _to_load(ledger: Ledger, facts: Facts, rules: RecoveryRules) -> tuple[str, ...]:
    """The models to load instead of a restart; none if the last load failed and it may restart."""
    if not _loadable(facts, rules):
        return ()
    last = ledger.attempts[-1] if ledger.streak and ledger.attempts else None
    failed = last is not None and last.loaded and last.error
    return () if failed and facts.reason in rules.reasons else facts.models.unloaded


def _unhealthy(facts: Facts, rules: RecoveryRules) -> bool:
    fixable = facts.reason in rules.reasons or _loadable(facts, rules)
    return facts.state is State.CRITICAL and fixable


def _was_closed(ledger: Ledger) -> bool:
    return ledger.closed or ledger.opened is not None


def _cause(facts: Facts) -> str:
    return f"{facts.reason}: {facts.detail}" if facts.detail else str(facts.reason)


def _since(since: float | None, holds: bool, now: float) -> float | None:
    if not holds:
        return None
    return now if since is None else since


def _within_an_hour(ledger: Ledger, now: float) -> tuple[Attempt, ...]:
    return tuple(attempt for attempt in ledger.attempts if now - attempt.began < HOUR)
