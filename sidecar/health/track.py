"""The track of one layer of one subject: its level, with rise and fall in findings. Pure."""

from dataclasses import dataclass, replace

from sidecar.verdict.evidence import Finding, Level, Reason

# Evidence is stale after this many times the longest time between two findings of its layer.
STALE = 10
# A wrong answer counts when repeated, even with right ones in between. Missing answers only count
# in a row: the timeout may have been too short.
_DEFINITE = frozenset({Reason.CANARY_FAILED, Reason.CANARY_WRONG_ANSWER, Reason.CANARY_TOO_LARGE})
# No answer yet: strain on an instance that serves, but no proof for one that does not.
NO_ANSWER = frozenset({Reason.CANARY_LATE, Reason.MODEL_BUSY})
# Findings that were confirmed before they were reported, or that another probe would not change.
_AT_ONCE = frozenset(
    {
        *(Reason.MODEL_HUNG, Reason.CONFIG, Reason.MODEL_SET_DIFFERS),
        *(Reason.GPU_LOST, Reason.GPU_XID, Reason.GPU_ECC, Reason.GPU_ROW_REMAP_FAILED),
    }
)


@dataclass(frozen=True, slots=True)
class TrackRules:
    """When levels and states change. Counts are findings of one layer, times are seconds.

    `rise` good findings in a row bring a layer up, `fall` bad ones take it down, and so do `repeat`
    definite failures among the last `window`. `grace` counts from the start. CRITICAL and WARNING
    last at least `hold`; CRITICAL twice as long each time it comes back within `max_hold`, up to
    `max_hold`. `pulse` is the longest time between two assessments that counts as watched.
    `weights` is a curve of (strain, percent): the share of its weight that an instance keeps in
    WARNING. With `any_model` it is enough that one model may be used; the others are left out.
    """

    rise: int = 2
    fall: int = 2
    repeat: int = 2
    window: int = 20
    grace: float = 60.0
    hold: float = 2.0
    max_hold: float = 60.0
    pulse: float = 2.0
    weights: tuple[tuple[float, int], ...] = ((1.0, 50), (3.0, 25), (10.0, 10))
    any_model: bool = False

    def weight(self, strain: float) -> int:
        """The percentage of its weight that an instance keeps under a strain."""
        return min((percent for from_, percent in self.weights if strain >= from_), default=100)


@dataclass(frozen=True, slots=True)
class Track:
    """The track of one layer of one subject; the level UNKNOWN means not proven.

    `critical`, `troubled`, `proofs` and `fine` count the last findings in a row that were CRITICAL,
    worse than OK, answers better than CRITICAL, and OK. `failures` says for each of the last
    answers whether it was a definite failure. `strain` is the last answer's, or more if the next
    one is late; `cause` is the finding to report. `evidence_at` is when, in watched seconds, the
    layer last had evidence.
    """

    level: Level = Level.UNKNOWN
    critical: int = 0
    troubled: int = 0
    proofs: int = 0
    fine: int = 0
    failures: tuple[bool, ...] = ()
    strain: float = 1.0
    cause: Finding | None = None
    last: Finding | None = None
    evidence_at: float = 0.0

    @property
    def settled(self) -> bool:
        """Whether the level is not expected to change with the next finding.

        A subject that may have started to fail, or to recover, is probed at the fast interval.
        """
        if self.last is None:
            return False
        if self.level is Level.CRITICAL:
            return self.last.level is Level.CRITICAL or self.last.reason in NO_ANSWER
        return self.last.level is self.level and not any(self.failures)


def follow(track: Track, finding: Finding, rules: TrackRules) -> Track:
    """The track after one more finding."""
    if finding.level is Level.UNKNOWN:
        cause = finding if track.level is Level.UNKNOWN else track.cause
        return replace(track, last=finding, cause=cause)
    critical, silent = finding.level is Level.CRITICAL, finding.reason in NO_ANSWER
    answers = () if silent else (finding.reason in _DEFINITE,)
    counted = replace(
        track,
        critical=track.critical + 1 if critical else 0,
        troubled=0 if finding.ok else track.troubled + 1,
        proofs=0 if critical else track.proofs + (not silent),
        fine=track.fine + 1 if finding.ok else 0,
        failures=(*track.failures, *answers)[-rules.window :],
        strain=max(track.strain, finding.strain) if silent else finding.strain,
        last=finding,
    )
    level = _level(counted, finding, rules)
    return replace(counted, level=level, cause=_cause(track, level, finding))


def expire(track: Track, finding: Finding) -> Track:
    """The track once its evidence is stale, as `finding` says: not proven."""
    return Track(cause=finding, last=finding, evidence_at=track.evidence_at)


def _level(track: Track, finding: Finding, rules: TrackRules) -> Level:
    """The level after a finding that `track` has already counted."""
    at_once = finding.reason in _AT_ONCE
    if at_once or track.critical >= rules.fall or sum(track.failures) >= rules.repeat:
        return Level.CRITICAL
    if track.level in (Level.CRITICAL, Level.UNKNOWN):
        if track.proofs < rules.rise or any(track.failures):
            return track.level
        return finding.level
    if track.troubled >= rules.fall:
        return Level.WARNING
    return Level.OK if track.fine >= rules.rise else track.level


def _cause(before: Track, level: Level, finding: Finding) -> Finding | None:
    """The finding to report: the first of its kind, so that the text is stable."""
    if finding.ok:
        return None if level is Level.OK else before.cause
    if level is not before.level or before.cause is None:
        return finding
    # A late canary is not why a stale layer is no longer proven.
    stale = before.cause.reason is Reason.EVIDENCE_STALE and finding.reason in NO_ANSWER
    milder = finding.level < level or stale
    # Reasons for strain alternate from one probe to the next: late, busy, slow.
    both_definite = {before.cause.reason, finding.reason} <= _DEFINITE
    same_kind = level is Level.WARNING or both_definite or before.cause.reason is finding.reason
    return before.cause if milder or same_kind else finding
