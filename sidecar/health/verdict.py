"""From evidence to a verdict: may this Triton be sent a request?

Pure: `assess` takes what is remembered, the findings of one probing round and the time, and
returns what to remember now. Every subject, the server itself and each model, has a track of its
own with rise and fall counted in rounds; the instance passes while all of them are up.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

SERVER = ""  # the subject that is Triton itself, as in grpc.health.v1


class State(StrEnum):
    """What the instance may be used for. Only PASSING receives traffic."""

    STARTING = "starting"
    PASSING = "passing"
    CRITICAL = "critical"
    DRAINING = "draining"


class Reason(StrEnum):
    """Why a verdict is as it is. The codes are stable: alerts may match on them."""

    OK = "OK"
    NOT_PROVEN_YET = "NOT_PROVEN_YET"
    PORT_UNREACHABLE = "PORT_UNREACHABLE"
    SERVER_NOT_LIVE = "SERVER_NOT_LIVE"
    SERVER_NOT_READY = "SERVER_NOT_READY"
    MODEL_NOT_READY = "MODEL_NOT_READY"
    CANARY_FAILED = "CANARY_FAILED"
    CANARY_TIMEOUT = "CANARY_TIMEOUT"
    CANARY_WRONG_ANSWER = "CANARY_WRONG_ANSWER"
    DRAINING = "DRAINING"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one layer of one round found out. `seconds` is how long it took."""

    layer: str
    subject: str
    reason: Reason
    detail: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the layer passed."""
        return self.reason is Reason.OK


@dataclass(frozen=True, slots=True)
class Rules:
    """`rise` and `fall` are rounds in a row, `grace` is seconds since the start."""

    rise: int = 2
    fall: int = 2
    grace: float = 60.0


@dataclass(frozen=True, slots=True)
class Track:
    """The record of one subject: `streak` rounds in a row that contradict `up`."""

    up: bool = False
    streak: int = 0
    cause: Finding | None = None


@dataclass(frozen=True, slots=True)
class History:
    """All that is remembered between rounds; times are seconds on the monotonic clock.

    `passing` is whether the last verdict was, `proven` whether any was.
    """

    started: float
    tracks: Mapping[str, Track]
    passing: bool = False
    proven: bool = False

    @property
    def settled(self) -> bool:
        """Whether the last round agreed with every track."""
        return all(track.streak == 0 for track in self.tracks.values())


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer, and the evidence behind it, which does not count when two are compared."""

    state: State
    reason: Reason
    detail: str = ""
    models: frozenset[str] = frozenset()
    evidence: tuple[Finding, ...] = field(default=(), compare=False)
    at: float = field(default=0.0, compare=False)

    @property
    def serving(self) -> bool:
        """Whether the instance may be sent requests."""
        return self.state is State.PASSING

    @property
    def summary(self) -> str:
        """One stable line for people: no figure that changes from round to round."""
        line = f"{self.state.upper()} {self.reason}"
        return " ".join(f"{line}: {self.detail}".split()) if self.detail else line


UNPROVEN = Verdict(State.STARTING, Reason.NOT_PROVEN_YET)


def begin(models: Iterable[str], now: float) -> History:
    """What is known before the first round: nothing, so nothing is up."""
    return History(started=now, tracks={SERVER: Track(), **{model: Track() for model in models}})


def assess(
    history: History, evidence: tuple[Finding, ...], rules: Rules, now: float
) -> tuple[History, Verdict]:
    """Weigh one round.

    A subject that no finding speaks for has failed the round: absence of evidence is no proof.
    """
    tracks = {
        subject: _follow(track, _first_failure(evidence, subject), rules)
        for subject, track in history.tracks.items()
    }
    # Who is up may fail for a while and stay up; but nobody begins to serve in a failing round.
    against = [track for track in tracks.values() if not track.up] or (
        [] if history.passing else [track for track in tracks.values() if track.streak]
    )
    models = frozenset(subject for subject, track in tracks.items() if subject and track.up)
    passing = not against
    history = History(history.started, tracks, passing, history.proven or passing)
    if passing:
        return history, Verdict(State.PASSING, Reason.OK, "", models, evidence, now)
    cause = against[0].cause
    in_grace = not history.proven and now - history.started < rules.grace
    state = State.STARTING if in_grace else State.CRITICAL
    reason = cause.reason if cause else Reason.NOT_PROVEN_YET
    return history, Verdict(state, reason, cause.detail if cause else "", models, evidence, now)


def draining(verdict: Verdict, why: str, now: float) -> Verdict:
    """The verdict of an instance that withdraws itself; no evidence changes it any more."""
    return Verdict(State.DRAINING, Reason.DRAINING, why, frozenset(), verdict.evidence, now)


def _first_failure(evidence: tuple[Finding, ...], subject: str) -> Finding | None:
    """What speaks against a subject in this round; a failing server speaks against all."""
    for relevant in dict.fromkeys((SERVER, subject)):
        own = [finding for finding in evidence if finding.subject == relevant]
        if not own:
            return Finding("none", relevant, Reason.NOT_PROVEN_YET)
        for finding in own:
            if not finding.ok:
                return finding
    return None


def _follow(track: Track, failure: Finding | None, rules: Rules) -> Track:
    good = failure is None
    if good == track.up:
        return Track(track.up, 0, _cause(track, failure))
    streak = track.streak + 1
    if streak < (rules.rise if good else rules.fall):
        return Track(track.up, streak, _cause(track, failure))
    return Track(good, 0, _cause(track, failure))


def _cause(track: Track, failure: Finding | None) -> Finding | None:
    """The failure to name: the first of its kind, so that the text stays while the kind does."""
    if failure is None:
        return track.cause if not track.up else None
    if track.cause is not None and track.cause.reason is failure.reason:
        return track.cause
    return failure
