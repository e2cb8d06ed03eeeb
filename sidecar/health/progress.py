"""What Triton's own counters tell: does a model move, how do requests of clients fare? Pure.

Busy and hung look alike to whoever waits. They differ in whether anything finishes meanwhile:
requests, executions, responses of a stream.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from sidecar.health.canary import Canary
from sidecar.health.evidence import Finding, Layer, Reason
from sidecar.triton_api import Answer, Statistics


@dataclass(frozen=True, slots=True)
class Counted:
    """A model's counters over all of its versions; seconds are sums over requests."""

    successes: int = 0
    failures: int = 0
    responses: int = 0
    movements: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, model: str, statistics: Iterable[Statistics]) -> "Counted | None":
        """The sum over a model's versions; None if none of them is counted."""
        own = [each for each in statistics if each.model == model]
        if not own:
            return None
        return cls(
            successes=sum(each.successes for each in own),
            failures=sum(each.failures for each in own),
            responses=sum(each.responses for each in own),
            movements=sum(
                each.successes + each.failures + each.executions + each.responses for each in own
            ),
            seconds=sum(each.success_seconds for each in own),
        )


@dataclass(frozen=True, slots=True)
class Traffic:
    """What became of requests between two looks; `responses` counts only those of streams."""

    successes: int = 0
    failures: int = 0
    seconds: float = 0.0
    responses: int = 0

    @property
    def movements(self) -> int:
        """How many movements of the counters they explain at most."""
        # Each request is a success or a failure and an execution; a stream ends with an empty one.
        return 2 * (self.successes + self.failures) + self.responses + bool(self.responses)

    @property
    def latency(self) -> float | None:
        """Mean seconds of a successful request, in Triton."""
        return self.seconds / self.successes if self.successes else None


@dataclass(frozen=True, slots=True)
class Progress:
    """What is remembered of a model's counters; times are seconds on the monotonic clock.

    `moved` is when something was last seen to have moved, `still` how many looks since have seen
    nothing; `others` is when it was not only a canary. `known` is False while the counters cannot
    be read.
    """

    counted: Counted | None = None
    known: bool = False
    moved: float = 0.0
    still: int = 0
    others: float = 0.0
    traffic: Traffic = Traffic()

    @property
    def sees_streams(self) -> bool:
        """Whether the single responses of streams are counted; not every Triton does."""
        return self.counted is not None and self.counted.responses > 0

    def recent(self, now: float, within: float) -> bool:
        """Whether requests of clients have moved in the last `within` seconds."""
        return self.known and now < self.others + within


def look(before: Progress, counted: Counted | None, own: Traffic, now: float) -> Progress:
    """The progress after a look at the counters; `own` are the probes finished since the last."""
    if counted is None:
        return replace(before, known=False, traffic=Traffic())
    last = before.counted
    if last is None or counted.movements < last.movements:  # the first look, or loaded anew
        return Progress(counted, known=True, moved=now, others=before.others)
    traffic = Traffic(
        successes=max(counted.successes - last.successes - own.successes, 0),
        failures=max(counted.failures - last.failures - own.failures, 0),
        seconds=max(counted.seconds - last.seconds - own.seconds, 0.0),
    )
    movements = counted.movements - last.movements
    if movements:
        others = now if movements > own.movements else before.others
        return Progress(counted, True, now, 0, others, traffic)
    return replace(before, counted=counted, known=True, still=before.still + 1, traffic=traffic)


# A look may come right after a pause of the sidecar itself: one that sees nothing proves nothing.
_LOOKS = 2


def unanswered(
    model: str, since: float, timeout: float, stall: float, progress: Progress, now: float
) -> Finding:
    """What it means that a canary is late.

    Args:
        model: the model that was asked.
        since: when it was asked.
        timeout: seconds after which an answer is late.
        stall: seconds without any movement after which a model is hung.
        progress: what its counters tell.
        now: the time.
    """
    elapsed = now - since
    still = now - max(since, progress.moved)
    if not progress.known:
        reason = Reason.CANARY_UNANSWERED if elapsed >= stall else Reason.CANARY_LATE
    elif still >= stall and progress.still >= _LOOKS:
        reason = Reason.MODEL_HUNG
    elif progress.others > since:
        reason = Reason.MODEL_BUSY
    else:
        reason = Reason.CANARY_LATE
    detail = {
        Reason.CANARY_UNANSWERED: f"no answer within {stall:g} s, and no statistics to tell why",
        Reason.MODEL_HUNG: f"work is waiting, and nothing has finished for {stall:g} s",
        Reason.MODEL_BUSY: f"no answer within {timeout:g} s while other requests finish",
        Reason.CANARY_LATE: f"no answer within {timeout:g} s",
    }[reason]
    strain = max(elapsed / timeout, 1.0)
    return Finding(Layer.CANARY, model, reason, f"{model}: {detail}", elapsed, strain)


def answered(canary: Canary, answer: Answer, since: float, progress: Progress) -> Finding:
    """How a right answer fares against the canary's budgets.

    One that took too long is no failure if other requests finished meanwhile: it stood in a queue.
    """
    budgets, name = canary.budgets, canary.model
    warn = budgets.warn if budgets.warn is not None else canary.timeout
    over = [
        (seconds, what, budget, fails)
        for seconds, what, budget, fails in (
            (answer.seconds, "answered", budgets.fail, True),
            (answer.first, "began to answer", budgets.first_fail, True),
            (answer.seconds, "answered", warn, False),
            (answer.first, "began to answer", budgets.first_warn, False),
        )
        if budget is not None and seconds > budget
    ]
    if not over:
        return Finding(Layer.CANARY, name, Reason.OK, "", answer.seconds)
    seconds, what, budget, fails = over[0]
    failed = fails and progress.others <= since
    reason = Reason.CANARY_TOO_SLOW if failed else Reason.CANARY_SLOW
    detail = f"{name}: {what} above its budget of {budget:g} s"
    strain = max(answer.seconds / warn, 1.0)
    return Finding(Layer.CANARY, name, reason, detail, seconds, strain)


def progress_finding(model: str, progress: Progress) -> Finding:
    """Whether a model's counters can be read."""
    if progress.known:
        return Finding(Layer.PROGRESS, model, Reason.OK)
    detail = f"{model}: Triton does not tell its statistics"
    return Finding(Layer.PROGRESS, model, Reason.STATISTICS_UNAVAILABLE, detail)


_FEW = 5  # failures that are no ratio yet


def traffic_finding(
    model: str, traffic: Traffic, budget: float | None, failing: float
) -> Finding | None:
    """How requests of clients fare; None if there is nothing to say.

    Args:
        model: the model that they ask.
        traffic: what became of them.
        budget: mean seconds above which they are slow.
        failing: share of failed ones, from 0 to 1, above which too many fail.
    """
    asked = traffic.successes + traffic.failures
    if not asked:
        return None
    if traffic.failures >= _FEW and traffic.failures > failing * asked:
        detail = f"{model}: more than {failing:.0%} of the clients' requests fail"
        return Finding(Layer.TRAFFIC, model, Reason.TRAFFIC_FAILING, detail)
    latency = traffic.latency
    if budget is not None and latency is not None and latency > budget:
        detail = f"{model}: clients' requests take longer than {budget:g} s on average"
        return Finding(Layer.TRAFFIC, model, Reason.TRAFFIC_SLOW, detail, latency, latency / budget)
    return Finding(Layer.TRAFFIC, model, Reason.OK, "", latency or 0.0)


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between two canaries of a model.

    `interval` where nothing else is known, `floor` at most, while requests of clients succeed, and
    `fast` while it is open what to think of the model.
    """

    interval: float = 1.0
    floor: float = 2.0
    fast: float = 0.1

    def pause(self, *, settled: bool, traffic: Traffic) -> float:
        """How long to wait before the next canary."""
        if not settled or traffic.failures:
            return self.fast
        return self.floor if traffic.successes else self.interval
