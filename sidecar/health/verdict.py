"""From findings to a verdict: may this Triton be sent a request?

Pure: `assess` takes what is remembered, new findings and the time, and returns what to remember
now. Each layer of each subject has a track of its own: a level, with rise and fall counted in
findings. The state follows from the levels by one table, `_state`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from sidecar.health.evidence import SERVER, Finding, Layer, Level, Reason


class State(StrEnum):
    """What the instance may be used for. PASSING and WARNING receive traffic."""

    STARTING = "starting"
    PASSING = "passing"
    WARNING = "warning"
    CRITICAL = "critical"
    DRAINING = "draining"
    MAINTENANCE = "maintenance"


class Order(StrEnum):
    """What was decided about the instance, whatever the findings say."""

    SERVE = "serve"
    DRAIN = "drain"
    MAINTAIN = "maintain"


SERVING = frozenset({State.PASSING, State.WARNING})
Key = tuple[Layer, str]  # a layer of a subject

# Every one of these has to be proven; the others count only when they have something to say.
_OF_SERVER = (Layer.PORT, Layer.LIVE, Layer.READY)
_OF_MODEL = (Layer.MODEL, Layer.CANARY)
_DEPTH = {layer: depth for depth, layer in enumerate(Layer)}
# An answer, and a bad one: it counts when repeated, even with good ones in between. What was not
# answered counts in a row only, for it may be the time that was short.
_DEFINITE = frozenset({Reason.CANARY_FAILED, Reason.CANARY_WRONG_ANSWER, Reason.CANARY_TOO_LARGE})
# Those that waited for their own confirmation, or that another look would not change.
_AT_ONCE = frozenset(
    {
        *(Reason.MODEL_HUNG, Reason.CONFIG),
        *(Reason.GPU_LOST, Reason.GPU_XID, Reason.GPU_ECC, Reason.GPU_ROW_REMAP_FAILED),
    }
)


@dataclass(frozen=True, slots=True)
class Rules:
    """When levels and states change. Counts are findings of one layer, times are seconds.

    `rise` good ones in a row bring a layer up, `fall` bad ones take it down, and so do `repeat`
    definite failures among the last `window`. `grace` counts from the start. CRITICAL and WARNING
    last for `hold` at least; CRITICAL twice as long each time it comes back within `max_hold`, up
    to that. `weights` is a curve of (strain, percent): how much of its weight an instance keeps in
    WARNING.
    """

    rise: int = 2
    fall: int = 2
    repeat: int = 2
    window: int = 20
    grace: float = 60.0
    hold: float = 2.0
    max_hold: float = 60.0
    weights: tuple[tuple[float, int], ...] = ((1.0, 50), (3.0, 25), (10.0, 10))

    def weight(self, strain: float) -> int:
        """Percent of its weight that an instance keeps under a strain."""
        return min((percent for from_, percent in self.weights if strain >= from_), default=100)


@dataclass(frozen=True, slots=True)
class Track:
    """The record of one layer of one subject; UNKNOWN as its level means not proven.

    `critical`, `troubled`, `calm` and `fine` count the last findings in a row that were CRITICAL,
    worse than OK, better than CRITICAL, and OK. `failures` tells of each of the last findings
    whether it was a definite failure; `cause` is the finding to name.
    """

    level: Level = Level.UNKNOWN
    critical: int = 0
    troubled: int = 0
    calm: int = 0
    fine: int = 0
    failures: tuple[bool, ...] = ()
    cause: Finding | None = None
    last: Finding | None = None

    @property
    def settled(self) -> bool:
        """Whether another finding is not expected to change the level."""
        return self.last is not None and self.last.level is self.level and not any(self.failures)


@dataclass(frozen=True, slots=True)
class History:
    """All that is remembered; times are seconds on the monotonic clock.

    `state` is the one that follows from the findings alone, and why; `since` is when it began, and
    `hold` how long it lasts at least. `critical_hold` is how long CRITICAL lasted at least when it
    came last, `recovered` when it ended. `proven` is whether the instance has ever passed. `weight`
    is the percentage that it deserves in WARNING, as weighed last.
    """

    started: float
    tracks: Mapping[Key, Track]
    required: tuple[Key, ...]
    state: State = State.STARTING
    cause: Finding | None = None
    since: float = 0.0
    hold: float = 0.0
    critical_hold: float = 0.0
    recovered: float | None = None
    proven: bool = False
    weight: int = 50
    weighed: float = 0.0

    def settled(self, layer: Layer, subject: str) -> bool:
        """Whether a layer needs no other look soon."""
        return self.tracks.get((layer, subject), Track()).settled


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer, and the evidence behind it, which does not count when two are compared.

    `fitness` is the state that the findings alone would make. `weight` is the percentage of its
    weight that the instance deserves while in WARNING.
    """

    state: State
    reason: Reason
    detail: str = ""
    models: frozenset[str] = frozenset()
    fitness: State = State.STARTING
    weight: int = 50
    evidence: tuple[Finding, ...] = field(default=(), compare=False)
    at: float = field(default=0.0, compare=False)

    @property
    def serving(self) -> bool:
        """Whether the instance may be sent requests."""
        return self.state in SERVING

    @property
    def summary(self) -> str:
        """One stable line for people: no figure that changes from one finding to the next."""
        line = f"{self.state.upper()} {self.reason}"
        return " ".join(f"{line}: {self.detail}".split()) if self.detail else line


_NOTHING_YET = Finding(Layer.CANARY, SERVER, Reason.NOT_PROVEN_YET)
UNPROVEN = Verdict(State.STARTING, Reason.NOT_PROVEN_YET)


def begin(models: Iterable[str], now: float) -> History:
    """What is known before the first finding: nothing, so nothing is proven."""
    required = [(layer, SERVER) for layer in _OF_SERVER]
    required += [(layer, model) for model in models for layer in _OF_MODEL]
    tracks = {key: Track() for key in required}
    return History(started=now, tracks=tracks, required=tuple(required), since=now)


def assess(
    history: History, findings: Iterable[Finding], rules: Rules, now: float
) -> tuple[History, Verdict]:
    """Take findings into account, in their order; none just lets time pass."""
    tracks = dict(history.tracks)
    for finding in findings:
        key = finding.layer, finding.subject
        before = tracks.get(key, Track())
        tracks[key] = _follow(before, finding, rules)
        if tracks[key].level is Level.CRITICAL is not before.level:
            _doubt(tracks, key)
    history = replace(history, tracks=tracks)
    state, cause = _state(history, rules, now)
    history = _weigh(_move(history, state, cause, rules, now), rules, now)
    return history, Verdict(
        state=state,
        reason=cause.reason if cause else Reason.OK,
        detail=cause.detail if cause else "",
        models=_models(history),
        fitness=state,
        weight=history.weight,
        evidence=tuple(track.last for track in _sorted(tracks) if track.last),
        at=now,
    )


def ordered(verdict: Verdict, order: Order, why: str) -> Verdict:
    """The verdict on an instance, given what was decided about it whatever the findings say."""
    if order is Order.SERVE:
        return verdict
    state, reason = {
        Order.DRAIN: (State.DRAINING, Reason.DRAINING),
        Order.MAINTAIN: (State.MAINTENANCE, Reason.MAINTENANCE),
    }[order]
    return replace(verdict, state=state, reason=reason, detail=why, models=frozenset())


def _state(history: History, rules: Rules, now: float) -> tuple[State, Finding | None]:
    """The table: the first line that applies is the state, with the finding that is its cause."""
    tracks = _sorted(history.tracks)
    down = [track for track in tracks if track.level is Level.CRITICAL]
    required = [history.tracks[key] for key in history.required]
    unproven = [track for track in required if track.level is Level.UNKNOWN]
    # Who serves may fail for a while and go on; but nobody begins to, unless all is well at once.
    failing = [track for track in tracks if track.critical]
    failing += [track for track in required if track.calm < rules.rise]
    strained = [track for track in tracks if track.level is Level.WARNING]

    against = next(iter(down or unproven or failing * (history.state not in SERVING)), None)
    # What fell and is being proven anew fell for the same cause still.
    fallen = history.cause if history.state is State.CRITICAL else None
    cause = (against.cause if against else None) or fallen or _NOTHING_YET
    in_grace = not history.proven and now < history.started + rules.grace
    held = now < history.since + history.hold
    table = (
        (against and in_grace, State.STARTING, cause),
        (against, State.CRITICAL, cause),
        (history.state is State.CRITICAL and held, State.CRITICAL, history.cause),
        (strained, State.WARNING, strained[0].cause if strained else None),
        (history.state is State.WARNING and held, State.WARNING, history.cause),
        (True, State.PASSING, None),
    )
    return next((state, why) for applies, state, why in table if applies)


def _move(
    history: History, state: State, cause: Finding | None, rules: Rules, now: float
) -> History:
    """Enter a state; the longer for each time that CRITICAL came back soon."""
    if state is history.state:
        return replace(history, cause=cause)
    critical_hold = history.critical_hold
    if state is State.CRITICAL:
        relapse = history.recovered is not None and now < history.recovered + rules.max_hold
        critical_hold = min(2 * critical_hold, rules.max_hold) if relapse else rules.hold
    return replace(
        history,
        state=state,
        cause=cause,
        since=now,
        hold={State.CRITICAL: critical_hold, State.WARNING: rules.hold}.get(state, 0.0),
        critical_hold=critical_hold,
        recovered=now if history.state is State.CRITICAL else history.recovered,
        proven=history.proven or state in SERVING,
    )


def _weigh(history: History, rules: Rules, now: float) -> History:
    """Less weight at once, more of it only after a while."""
    strains = [
        t.last.strain for t in history.tracks.values() if t.level is Level.WARNING and t.last
    ]
    weight = rules.weight(max(strains, default=1.0))
    rising = weight > history.weight and history.state is State.WARNING
    if weight == history.weight or (rising and now < history.weighed + rules.hold):
        return history
    return replace(history, weight=weight, weighed=now)


def _models(history: History) -> frozenset[str]:
    """The models that answer as they should."""
    bad = {
        subject
        for (layer, subject), track in history.tracks.items()
        if track.level is Level.CRITICAL
        or (track.level is Level.UNKNOWN and (layer, subject) in history.required)
    }
    models = frozenset(subject for _, subject in history.required if subject)
    return frozenset() if SERVER in bad else models - bad


def _sorted(tracks: Mapping[Key, Track]) -> list[Track]:
    """From the outside in: what lies deeper may only suffer from what lies before it."""
    keys = sorted(tracks, key=lambda key: (_DEPTH[key[0]], key[1]))
    return [tracks[key] for key in keys]


def _doubt(tracks: dict[Key, Track], fallen: Key) -> None:
    """What depends on a layer that has fallen has to be proven anew."""
    layer, subject = fallen
    if layer not in (*_OF_SERVER, Layer.MODEL):
        return
    for key in tracks:
        deeper = _DEPTH[layer] < _DEPTH[key[0]] and key[0] is not Layer.GPU
        if deeper and subject in (SERVER, key[1]):
            tracks[key] = Track()


def _follow(track: Track, finding: Finding, rules: Rules) -> Track:
    if finding.level is Level.UNKNOWN:
        return Track(cause=finding, last=finding)
    critical = finding.level is Level.CRITICAL
    counted = replace(
        track,
        critical=track.critical + 1 if critical else 0,
        troubled=0 if finding.ok else track.troubled + 1,
        calm=0 if critical else track.calm + 1,
        fine=track.fine + 1 if finding.ok else 0,
        failures=(*track.failures, finding.reason in _DEFINITE)[-rules.window :],
        last=finding,
    )
    level = _level(counted, finding, rules)
    return replace(counted, level=level, cause=_cause(track, level, finding))


def _level(track: Track, finding: Finding, rules: Rules) -> Level:
    """The level after a finding that `track` has counted already."""
    at_once = finding.reason in _AT_ONCE
    if at_once or track.critical >= rules.fall or sum(track.failures) >= rules.repeat:
        return Level.CRITICAL
    if track.level in (Level.CRITICAL, Level.UNKNOWN):
        if track.calm < rules.rise or any(track.failures):
            return track.level
        return finding.level
    if track.troubled >= rules.fall:
        return Level.WARNING
    return Level.OK if track.fine >= rules.rise else track.level


def _cause(before: Track, level: Level, finding: Finding) -> Finding | None:
    """The finding to name: the first of its kind, so that the text stays while the kind does."""
    if finding.ok:
        return None if level is Level.OK else before.cause
    if level is not before.level or before.cause is None:
        return finding
    milder = finding.level < level
    # What strains a server changes from one look to the next: late, busy, slow.
    alike = level is Level.WARNING or before.cause.reason is finding.reason
    return before.cause if milder or alike else finding
