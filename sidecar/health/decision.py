"""From findings to a verdict: may this Triton be sent a request?

Pure: `assess` takes what is remembered, new findings and the time, and returns what to remember
now. Each layer of each subject has a track of its own; the state follows from the levels of all
tracks by one table, `_state`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from sidecar.health.track import NO_ANSWER, Track, TrackRules, expire, follow
from sidecar.verdict.evidence import SERVER, Finding, Layer, Level, Reason
from sidecar.verdict.verdict import SERVING, Verdict
from sidecar.verdict.verdict_line import State


class Override(StrEnum):
    """What was decided about the instance, whatever the findings say."""

    SERVE = "serve"
    DRAIN = "drain"
    MAINTAIN = "maintain"
    STAY_COLD = "stay cold"


Key = tuple[Layer, str]  # a layer of a subject

# Every one of these has to be proven; the others count only when they have something to say.
_OF_SERVER = (Layer.PORT, Layer.LIVE, Layer.READY)
_OF_MODEL = (Layer.MODEL, Layer.CANARY)
_DEPTH = {layer: depth for depth, layer in enumerate(Layer)}


@dataclass(frozen=True, slots=True)
class History:
    """All that is remembered; times are seconds on the monotonic clock.

    `state` is the one that follows from the findings alone, and why; `since` is when it began, and
    `hold` how long it lasts at least. `critical_hold` is how long CRITICAL lasted at least when it
    came last, `recovered` when it ended. `proven` is whether the instance has ever passed. `weight`
    is the percentage that it deserves in WARNING, as weighed last.

    `watched` counts the seconds in which the sidecar looked, up to `assessed`. `bounds` is for how
    many of these what a layer has proven counts without another finding; others count for ever.
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
    watched: float = 0.0
    assessed: float = 0.0
    bounds: Mapping[Key, float] = field(default_factory=dict)

    def settled(self, layer: Layer, subject: str) -> bool:
        """Whether a layer needs no other look soon."""
        return self.tracks.get((layer, subject), Track()).settled


def evidence(history: History) -> tuple[Finding, ...]:
    """What every layer has found last, from the outside in; its words are those of the cause.

    So that they stay while the reason does, whatever figure they hold.
    """
    return tuple(
        replace(track.last, detail=_words(track)) for track in _sorted(history.tracks) if track.last
    )


def _words(track: Track) -> str:
    same = track.cause and track.last and track.cause.reason is track.last.reason
    return track.cause.detail if track.cause and same else ""


def expired(before: History, after: History) -> tuple[Finding, ...]:
    """What has become stale meanwhile, layer by layer."""
    found = ((key, track.last) for key, track in after.tracks.items() if track.last)
    return tuple(
        last
        for key, last in found
        if last.reason is Reason.EVIDENCE_STALE and before.tracks[key].last != last
    )


def forget(history: History, layer: Layer, subject: str) -> History:
    """Hold nothing against a layer any more, as before its first finding."""
    tracks = {key: track for key, track in history.tracks.items() if key != (layer, subject)}
    return replace(history, tracks=tracks)


def expect(history: History, bounds: Mapping[Key, float]) -> History:
    """Take what these layers prove for good for so many seconds only, from now on.

    Under a bound that is shorter than the one before, what is proven counts anew: the next finding
    was not due as soon as it is now.
    """
    shorter = {key for key in bounds if bounds[key] < history.bounds.get(key, 0.0)}
    tracks = {
        key: replace(track, evidence_at=history.watched) if key in shorter else track
        for key, track in history.tracks.items()
    }
    return replace(history, tracks=tracks, bounds={**history.bounds, **bounds})


def restarted(history: History) -> History:
    """What was proven of a server counts for nothing after it was started anew."""
    tracks = dict(history.tracks)
    _reset_dependents(tracks, (Layer.PORT, SERVER))
    return replace(history, tracks=tracks)


def begin(models: Iterable[str], now: float) -> History:
    """What is known before the first finding: nothing, so nothing is proven."""
    required = [(layer, SERVER) for layer in _OF_SERVER]
    required += [(layer, model) for model in models for layer in _OF_MODEL]
    tracks = {key: Track() for key in required}
    return History(started=now, tracks=tracks, required=tuple(required), since=now, assessed=now)


def assess(
    history: History, findings: Iterable[Finding], rules: TrackRules, now: float
) -> tuple[History, Verdict]:
    """Take findings into account, in their order; none just lets time pass."""
    history = _watch(history, rules, now)
    tracks = dict(history.tracks)
    for finding in findings:
        key = finding.layer, finding.subject
        before = tracks.get(key, Track())
        evidence_at = (
            history.watched if _is_evidence(finding, tracks, history) else before.evidence_at
        )
        tracks[key] = replace(follow(before, finding, rules), evidence_at=evidence_at)
        if tracks[key].level is Level.CRITICAL is not before.level:
            _reset_dependents(tracks, key)
    _expire(tracks, history)
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
        at=now,
    )


def _watch(history: History, rules: TrackRules, now: float) -> History:
    """Let time pass; what the sidecar or its machine slept through is held against nobody."""
    passed = min(max(now - history.assessed, 0.0), rules.pulse)
    return replace(history, watched=history.watched + passed, assessed=now)


def _is_evidence(finding: Finding, tracks: Mapping[Key, Track], history: History) -> bool:
    """Whether a finding is news of its subject.

    That a canary is late is, as long as Triton's counters are read, which tell busy from hung.
    """
    counters = Layer.PROGRESS, finding.subject
    return finding.reason not in NO_ANSWER or not _stale(
        counters, tracks.get(counters, Track()), history
    )


def _stale(key: Key, track: Track, history: History) -> bool:
    """Whether nothing has been found out about a layer for too long."""
    bound = history.bounds.get(key)
    return bound is not None and history.watched > track.evidence_at + bound


def _expire(tracks: dict[Key, Track], history: History) -> None:
    """Take nothing for proven any more of which nothing has been heard for too long.

    What was found to be critical stays so: it is not excused by silence.
    """
    for key, track in tracks.items():
        if track.level in (Level.OK, Level.WARNING) and _stale(key, track, history):
            (layer, subject), seconds = key, history.bounds[key]
            detail = f"{subject or 'server'}: no {layer} finding for {seconds:.0f} s"
            tracks[key] = expire(track, Finding(layer, subject, Reason.EVIDENCE_STALE, detail))


def overridden(verdict: Verdict, order: Override, why: str) -> Verdict:
    """The verdict on an instance, given what was decided about it whatever the findings say."""
    if order is Override.SERVE:
        return verdict
    state, reason = {
        Override.DRAIN: (State.DRAINING, Reason.DRAINING),
        Override.MAINTAIN: (State.MAINTENANCE, Reason.MAINTENANCE),
    }[order]
    return replace(verdict, state=state, reason=reason, detail=why, models=frozenset())


def cold(history: History, why: str, now: float) -> Verdict:
    """The verdict on a standby without models: whether its server could load them."""
    tracks = {key: track for key, track in history.tracks.items() if key[1] == SERVER}
    critical = (track.cause for track in _sorted(tracks) if track.level is Level.CRITICAL)
    needed = ((layer, SERVER) for layer in (Layer.PORT, Layer.LIVE))
    missing = [key for key in needed if tracks[key].level is Level.UNKNOWN]
    down = next(critical, None) or (_not_yet(missing) if missing else None)
    state, reason = (State.CRITICAL, down.reason) if down else (State.COLD, Reason.COLD_STANDBY)
    return Verdict(state, reason, down.detail if down else why, fitness=state, at=now)


def _state(history: History, rules: TrackRules, now: float) -> tuple[State, Finding | None]:
    """The table: the first line that applies is the state, with the finding that is its cause."""
    tracks = _sorted(history.tracks)
    down = [track for track in tracks if track.level is Level.CRITICAL]
    required = [history.tracks[key] for key in history.required]
    missing = [key for key in history.required if history.tracks[key].level is Level.UNKNOWN]
    unproven = [history.tracks[key] for key in missing]
    # Who serves may fail for a while and go on; but nobody begins to, unless all is well at once.
    failing = [track for track in tracks if track.critical]
    failing += [track for track in required if track.proofs < rules.rise]
    refusing = [] if history.state in SERVING else failing
    strained = [track for track in tracks if track.level is Level.WARNING]

    against = next(iter(down or unproven or refusing), None)
    # What fell and is being proven anew fell for the same cause still.
    fallen = history.cause if history.state is State.CRITICAL else None
    cause = (against.cause if against else None) or fallen or _not_yet(missing)
    in_grace = not history.proven and now < history.started + rules.grace
    if in_grace and not down:
        # So little says nothing against a Triton that may have served before this sidecar began.
        cause = _not_yet(missing, against.cause if against else None)
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


def _not_yet(missing: Sequence[Key], found: Finding | None = None) -> Finding:
    """What is waited for, the outermost layer of what is not proven; and what was found instead."""
    layer, subject = min(missing, key=_order, default=(Layer.PORT, SERVER))
    detail = f"{subject or 'server'}: {layer} has not passed often enough yet"
    if found is not None and found.reason is not Reason.OK:
        detail = f"{detail} ({found.reason} {found.detail})"
    return Finding(layer, subject, Reason.NOT_PROVEN_YET, detail)


def _move(
    history: History, state: State, cause: Finding | None, rules: TrackRules, now: float
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


def _weigh(history: History, rules: TrackRules, now: float) -> History:
    """Less weight at once, more of it only after a while; forgotten when all is well."""
    if history.state is State.PASSING:
        return replace(history, weight=rules.weight(1.0), weighed=now)
    strains = [t.strain for t in history.tracks.values() if t.level is Level.WARNING]
    if history.state is not State.WARNING or not strains:
        return history
    weight = rules.weight(max(strains))
    if weight == history.weight or (weight > history.weight and now < history.weighed + rules.hold):
        return history
    return replace(history, weight=weight, weighed=now)


def _models(history: History) -> frozenset[str]:
    """The models that answer as they should; none while the instance is held back as a whole."""
    if history.state is State.CRITICAL and not any(
        track.level in (Level.CRITICAL, Level.UNKNOWN) and key in history.required
        for key, track in history.tracks.items()
    ):
        return frozenset()
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
    return [tracks[key] for key in sorted(tracks, key=_order)]


def _order(key: Key) -> tuple[int, str]:
    layer, subject = key
    return _DEPTH[layer], subject


def _reset_dependents(tracks: dict[Key, Track], fallen: Key) -> None:
    """What depends on a layer that has fallen has to be proven anew."""
    layer, subject = fallen
    if layer not in (*_OF_SERVER, Layer.MODEL):
        return
    for key in tracks:
        deeper = _DEPTH[layer] < _DEPTH[key[0]] and key[0] not in (Layer.GPU, Layer.MODEL_SET)
        if deeper and subject in (SERVER, key[1]):
            tracks[key] = Track()
