"""The decision from findings to a verdict: may this Triton receive requests?

Pure: `assess` takes the history, new findings and the time, and returns the new history and the
verdict. Each layer of each subject has its own track; one table, `_state`, derives the state from
the levels of all tracks.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from sidecar.health.track import NO_ANSWER, Track, TrackRules, expire, follow
from sidecar.verdict.evidence import SERVER, Finding, Layer, Level, Reason
from sidecar.verdict.verdict import SERVING, Verdict
from sidecar.verdict.verdict_line import State


class Override(StrEnum):
    """A decision about the instance that takes precedence over the findings."""

    SERVE = "serve"
    DRAIN = "drain"
    MAINTAIN = "maintain"
    STAY_COLD = "stay cold"


Key = tuple[Layer, str]  # a layer of a subject
ModelReason = tuple[str, Reason]

# All of these must be proven; the other layers count only when they have findings.
_OF_SERVER = (Layer.PORT, Layer.LIVE, Layer.READY)
_OF_MODEL = (Layer.MODEL, Layer.CANARY)
_DEPTH = {layer: depth for depth, layer in enumerate(Layer)}


@dataclass(frozen=True, slots=True)
class History:
    """The history of an instance; times are seconds on the monotonic clock.

    `state` and `cause` follow from the findings alone; `state` began at `since` and lasts at least
    `hold`. `critical_hold` is the minimum duration of the last CRITICAL, `recovered` when it ended.
    `proven` is whether the instance has ever passed. `weight` is its percentage in WARNING, last
    changed at `weighed`.

    `watched` counts the seconds in which the sidecar was probing, up to `assessed`. `bounds` is for
    how many watched seconds a layer's evidence counts without another finding; a layer without a
    bound counts forever.
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
        """Whether a layer does not need another probe soon."""
        return self.tracks.get((layer, subject), Track()).settled


def evidence(history: History) -> tuple[Finding, ...]:
    """Every layer's last finding, from the outside in, with the detail of its cause.

    So the text is stable while the reason is, whatever figures it holds.
    """
    return tuple(
        replace(track.last, detail=_detail(track))
        for track in _sorted(history.tracks)
        if track.last
    )


def _detail(track: Track) -> str:
    same = track.cause and track.last and track.cause.reason is track.last.reason
    return track.cause.detail if track.cause and same else ""


def expired(before: History, after: History) -> tuple[Finding, ...]:
    """The findings of the layers that have become stale since."""
    found = ((key, track.last) for key, track in after.tracks.items() if track.last)
    return tuple(
        last
        for key, last in found
        if last.reason is Reason.EVIDENCE_STALE and before.tracks[key].last != last
    )


def forget(history: History, layer: Layer, subject: str) -> History:
    """Reset a layer to the state before its first finding."""
    tracks = {key: track for key, track in history.tracks.items() if key != (layer, subject)}
    return replace(history, tracks=tracks)


def expect(history: History, bounds: Mapping[Key, float]) -> History:
    """Set for how many seconds the evidence of these layers counts.

    A shorter bound than before starts to run now, because the next finding was not due so soon.
    """
    shorter = {key for key in bounds if bounds[key] < history.bounds.get(key, 0.0)}
    tracks = {
        key: replace(track, evidence_at=history.watched) if key in shorter else track
        for key, track in history.tracks.items()
    }
    return replace(history, tracks=tracks, bounds={**history.bounds, **bounds})


def restarted(history: History) -> History:
    """Discard all proof after a restart of Triton."""
    tracks = dict(history.tracks)
    _reset_dependents(tracks, (Layer.PORT, SERVER))
    return replace(history, tracks=tracks)


def begin(models: Iterable[str], now: float) -> History:
    """The history before the first finding: nothing is proven."""
    required = [(layer, SERVER) for layer in _OF_SERVER]
    required += [(layer, model) for model in models for layer in _OF_MODEL]
    tracks = {key: Track() for key in required}
    return History(started=now, tracks=tracks, required=tuple(required), since=now, assessed=now)


def assess(
    history: History, findings: Iterable[Finding], rules: TrackRules, now: float
) -> tuple[History, Verdict]:
    """Take findings into account, in their order. Without any, only time passes."""
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
    counted, unusable = _counted(history, rules)
    state, cause = _state(counted, rules, now)
    history = _move(history, state, cause, rules, now)
    counted = replace(history, tracks=counted.tracks, required=counted.required)
    history = _weigh(history, counted.tracks, rules, now)
    return history, Verdict(
        state=state,
        reason=cause.reason if cause else Reason.OK,
        detail=cause.detail if cause else "",
        models=_models(counted),
        fitness=state,
        weight=history.weight,
        unusable=unusable,
        at=now,
    )


def _counted(history: History, rules: TrackRules) -> tuple[History, tuple[ModelReason, ...]]:
    """The part of the history that counts for the instance, and the models that may not be used.

    Models that may not be used do not count if one is enough and another one may.
    """
    if not rules.any_model:
        return history, ()
    models = {subject for _, subject in history.required if subject}
    bad: dict[str, Reason] = {}
    for key in sorted(history.tracks, key=_order):
        track, (_, subject) = history.tracks[key], key
        if subject in models and _is_bad(key, history):
            bad.setdefault(subject, track.cause.reason if track.cause else Reason.NOT_PROVEN_YET)
    unusable = tuple(sorted(bad.items()))
    if models == bad.keys():
        return history, unusable
    tracks = {key: track for key, track in history.tracks.items() if key[1] not in bad}
    required = tuple(key for key in history.required if key[1] not in bad)
    return replace(history, tracks=tracks, required=required), unusable


def _watch(history: History, rules: TrackRules, now: float) -> History:
    """Let time pass. Time in which the sidecar or its machine was suspended does not count."""
    passed = min(max(now - history.assessed, 0.0), rules.pulse)
    return replace(history, watched=history.watched + passed, assessed=now)


def _is_evidence(finding: Finding, tracks: Mapping[Key, Track], history: History) -> bool:
    """Whether a finding is evidence about its subject.

    A late canary is, as long as Triton's counters can be read, which tell busy from hung.
    """
    counters = Layer.PROGRESS, finding.subject
    return finding.reason not in NO_ANSWER or not _stale(
        counters, tracks.get(counters, Track()), history
    )


def _stale(key: Key, track: Track, history: History) -> bool:
    """Whether a layer's last evidence is too old."""
    bound = history.bounds.get(key)
    return bound is not None and history.watched > track.evidence_at + bound


def _expire(tracks: dict[Key, Track], history: History) -> None:
    """Mark layers without recent evidence as not proven.

    A critical layer stays critical: missing evidence does not excuse it.
    """
    for key, track in tracks.items():
        if track.level in (Level.OK, Level.WARNING) and _stale(key, track, history):
            (layer, subject), seconds = key, history.bounds[key]
            detail = f"{subject or 'server'}: no {layer} finding for {seconds:.0f} s"
            tracks[key] = expire(track, Finding(layer, subject, Reason.EVIDENCE_STALE, detail))


def overridden(verdict: Verdict, override: Override, why: str) -> Verdict:
    """The verdict on an instance under an override."""
    if override is Override.SERVE:
        return verdict
    state, reason = {
        Override.DRAIN: (State.DRAINING, Reason.DRAINING),
        Override.MAINTAIN: (State.MAINTENANCE, Reason.MAINTENANCE),
    }[override]
    return replace(verdict, state=state, reason=reason, detail=why, models=frozenset())


def cold(history: History, why: str, now: float) -> Verdict:
    """The verdict on a cold standby, which has no models loaded: could its server load them?"""
    tracks = {key: track for key, track in history.tracks.items() if key[1] == SERVER}
    critical = (track.cause for track in _sorted(tracks) if track.level is Level.CRITICAL)
    needed = ((layer, SERVER) for layer in (Layer.PORT, Layer.LIVE))
    missing = [key for key in needed if tracks[key].level is Level.UNKNOWN]
    down = next(critical, None) or (_not_yet(missing) if missing else None)
    state, reason = (State.CRITICAL, down.reason) if down else (State.COLD, Reason.COLD_STANDBY)
    return Verdict(state, reason, down.detail if down else why, fitness=state, at=now)


def _state(history: History, rules: TrackRules, now: float) -> tuple[State, Finding | None]:
    """The table: the first row that applies gives the state and the finding that caused it."""
    tracks = _sorted(history.tracks)
    down = [track for track in tracks if track.level is Level.CRITICAL]
    required = [history.tracks[key] for key in history.required]
    missing = [key for key in history.required if history.tracks[key].level is Level.UNKNOWN]
    unproven = [history.tracks[key] for key in missing]
    # An instance that serves may fail for a while; another starts only when everything is healthy.
    failing = [track for track in tracks if track.critical]
    failing += [track for track in required if track.proofs < rules.rise]
    refusing = [] if history.state in SERVING else failing
    strained = [track for track in tracks if track.level is Level.WARNING]

    against = next(iter(down or unproven or refusing), None)
    # While an instance is being proven again, its cause stays the one for which it fell.
    fallen = history.cause if history.state is State.CRITICAL else None
    cause = (against.cause if against else None) or fallen or _not_yet(missing)
    in_grace = not history.proven and now < history.started + rules.grace
    if in_grace and not down:
        # Triton may have been serving before this sidecar started: no verdict against it yet.
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
    """The finding that names the outermost unproven layer, and what was found instead."""
    layer, subject = min(missing, key=_order, default=(Layer.PORT, SERVER))
    detail = f"{subject or 'server'}: {layer} has not passed often enough yet"
    if found is not None and found.reason is not Reason.OK:
        detail = f"{detail} ({found.reason} {found.detail})"
    return Finding(layer, subject, Reason.NOT_PROVEN_YET, detail)


def _move(
    history: History, state: State, cause: Finding | None, rules: TrackRules, now: float
) -> History:
    """Enter a state. The hold of CRITICAL grows each time it comes back soon."""
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


def _weigh(history: History, tracks: Mapping[Key, Track], rules: TrackRules, now: float) -> History:
    """Lower the weight at once, raise it only after `hold`; reset it when PASSING."""
    if history.state is State.PASSING:
        return replace(history, weight=rules.weight(1.0), weighed=now)
    strains = [t.strain for t in tracks.values() if t.level is Level.WARNING]
    if history.state is not State.WARNING or not strains:
        return history
    weight = rules.weight(max(strains))
    if weight == history.weight or (weight > history.weight and now < history.weighed + rules.hold):
        return history
    return replace(history, weight=weight, weighed=now)


def _models(history: History) -> frozenset[str]:
    """The models that are healthy; none while the instance as a whole is held back."""
    if history.state is State.CRITICAL and not any(
        track.level in (Level.CRITICAL, Level.UNKNOWN) and key in history.required
        for key, track in history.tracks.items()
    ):
        return frozenset()
    bad = {key[1] for key in history.tracks if _is_bad(key, history)}
    models = frozenset(subject for _, subject in history.required if subject)
    return frozenset() if SERVER in bad else models - bad


def _is_bad(key: Key, history: History) -> bool:
    """Whether a layer is critical, or not proven though it has to be."""
    level = history.tracks[key].level
    return level is Level.CRITICAL or (level is Level.UNKNOWN and key in history.required)


def _sorted(tracks: Mapping[Key, Track]) -> list[Track]:
    """From the outside in: a deeper layer may fail only because of an outer one."""
    return [tracks[key] for key in sorted(tracks, key=_order)]


def _order(key: Key) -> tuple[int, str]:
    layer, subject = key
    return _DEPTH[layer], subject


def _reset_dependents(tracks: dict[Key, Track], fallen: Key) -> None:
    """Reset the tracks that depend on a fallen layer; they have to be proven again."""
    layer, subject = fallen
    if layer not in (*_OF_SERVER, Layer.MODEL):
        return
    for key in tracks:
        deeper = _DEPTH[layer] < _DEPTH[key[0]] and key[0] not in (Layer.GPU, Layer.MODEL_SET)
        if deeper and subject in (SERVER, key[1]):
            tracks[key] = Track()
