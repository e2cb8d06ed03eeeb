"""Progress of models and of clients' requests, from Triton's own counters. Pure.

To a client, a busy model looks the same as a hung one. The difference is whether anything finishes
in the meantime: requests, executions, responses of a stream.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sidecar.health.canary.definition import Canary
from sidecar.health.neighbours import NOT_HELD, HeldUp
from sidecar.health.rules import ProbeRules
from sidecar.triton.api import Answer, Statistics
from sidecar.verdict.evidence import Finding, Layer, Reason

_REMEMBERED = 10  # readings over which clients' requests are summed up
_MORE_OFTEN = 4  # times as many canaries at most, while clients send requests
_FEW = 5  # failures; fewer say nothing about the ratio


@dataclass(frozen=True, slots=True)
class Counted:
    """A model's counters; `seconds` is the sum over its requests.

    `work` only grows while the model works. A refused or cancelled request is a failure and no
    work; a request that Triton answers from its cache is a success and no work.
    """

    versions: tuple[str, ...] = ()
    successes: int = 0
    failures: int = 0
    responses: int = 0
    work: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, model: Iterable[Statistics], version: str = "") -> "Counted | None":
        """The counters of one version of a model, or the sum over all; None if there are none."""
        own = [each for each in model if version in ("", each.version)]
        if not own:
            return None
        return cls(
            versions=tuple(sorted(each.version for each in own)),
            successes=sum(each.successes for each in own),
            failures=sum(each.failures for each in own),
            responses=sum(each.responses for each in own),
            work=sum(
                each.successes - each.cached + each.executions + each.responses for each in own
            ),
            seconds=sum(each.success_seconds for each in own),
        )

    def follows(self, before: "Counted") -> bool:
        """Whether these can be the same counters at a later time: the model was not reloaded."""
        grown = self.work >= before.work and self.failures >= before.failures
        return grown and self.seconds >= before.seconds and self.versions == before.versions


def by_name(statistics: Iterable[Statistics]) -> Mapping[str, Sequence[Statistics]]:
    """Each model's statistics, one per version."""
    found: defaultdict[str, list[Statistics]] = defaultdict(list)
    for each in statistics:
        found[each.model].append(each)
    return dict(found)


@dataclass(frozen=True, slots=True)
class Loads:
    """Which load of each model a Triton is at. A different value means a different load.

    `restarts` counts restarts of Triton. `by_model` has the load number of each model with
    statistics, including models that only ensembles use; it grows when the model's counters started
    again or the model was gone. A model that is gone is forgotten; new models start at `floor`,
    which is above the numbers of all gone ones. `counted` has the counters.
    """

    restarts: int = 0
    by_model: Mapping[str, int] = field(default_factory=dict)
    floor: int = 0
    counted: Mapping[str, Counted] = field(default_factory=dict, compare=False)

    @classmethod
    def since(cls, counted: Mapping[str, Counted]) -> "Loads":
        """The first load of each model, with the counters that an earlier sidecar saved."""
        return cls(by_model=dict.fromkeys(counted, 0), counted=counted)

    def after(self, statistics: Mapping[str, Sequence[Statistics]]) -> "Loads":
        """The loads after a reading of the statistics of all loaded models, by name."""
        found = {name: Counted.of(own) for name, own in statistics.items()}
        counted = {name: now for name, now in found.items() if now is not None}
        gone = (count + 1 for name, count in self.by_model.items() if name not in counted)
        by_model = {name: self._number(name, now) for name, now in counted.items()}
        floor = max((self.floor, *gone))
        return replace(self, by_model=by_model, floor=floor, counted=counted)

    def number(self, model: str) -> int:
        """A model's load number; for a model without statistics, that of its next load."""
        return self.by_model.get(model, self.floor)

    def _number(self, model: str, now: Counted) -> int:
        before = self.counted.get(model)
        reloaded = before is not None and not now.follows(before)
        return self.number(model) + (1 if reloaded else 0)


@dataclass(frozen=True, slots=True)
class Traffic:
    """The outcome of clients' requests between two readings."""

    successes: int = 0
    failures: int = 0
    seconds: float = 0.0

    @property
    def latency(self) -> float | None:
        """Mean seconds of a successful request, in Triton."""
        return self.seconds / self.successes if self.successes else None


@dataclass(frozen=True, slots=True)
class Progress:
    """The history of a model's counters; times are seconds on the monotonic clock.

    `still` is for how long the counters have not moved since a canary was sent or they moved last,
    `blind` for how long they could not be read. `others` is when clients' work was last seen, `own`
    how many of the sidecar's requests may not be counted yet, `generation` how often the model was
    reloaded. `recent` has the newest traffic last.
    """

    counted: Counted | None = None
    looked: float | None = None
    still: float = 0.0
    blind: float = 0.0
    others: float | None = None
    own: int = 0
    generation: int = 0
    recent: tuple[Traffic, ...] = ()

    @property
    def known(self) -> bool:
        """Whether the last reading succeeded."""
        return self.counted is not None and not self.blind

    @property
    def traffic(self) -> Traffic:
        """Clients' requests as of the last reading."""
        return self.recent[-1] if self.recent else Traffic()

    @property
    def sees_streams(self) -> bool:
        """Whether Triton counts each response of a stream; not every version does."""
        return self.counted is not None and self.counted.responses > 0

    def others_since(self, when: float) -> bool:
        """Whether work for clients was seen after a time."""
        return self.others is not None and self.others > when

    def alone_since(self, before: Counted | None, requests: int) -> bool:
        """Whether only the sidecar was answered since the counters were `before`.

        `before` is None for since the model's load. The sidecar has sent `requests` since. False
        where the counters cannot show it.
        """
        counted, before = self.counted, before or Counted()
        if counted is None or (before.versions and not counted.follows(before)):
            return False
        finished = counted.successes + counted.failures - before.successes - before.failures
        return finished <= requests


def after_sending(before: Progress, requests: int, waiting: bool = False) -> Progress:
    """The progress after sending a canary of so many requests: the model has work from now on.

    With `waiting` it already had work, an earlier canary. At most as many uncounted requests are
    carried over as this canary has.
    """
    still = before.still if waiting else 0.0
    return replace(before, still=still, own=min(before.own, requests) + requests)


def after_reading(
    before: Progress, counted: Counted | None, now: float, interval: float
) -> Progress:
    """The progress after a reading of the counters, taken every `interval` seconds.

    A gap between readings counts as at most two intervals: the sidecar or its machine was stopped.
    """
    passed = 0.0 if before.looked is None else min(now - before.looked, 2 * interval)
    last = before.counted
    if counted is None:
        recent = (*before.recent, Traffic())[-_REMEMBERED:]
        return replace(before, looked=now, blind=before.blind + max(passed, 1e-9), recent=recent)
    if last is None or not counted.follows(last):
        generation = before.generation + (last is not None)
        return Progress(counted, now, others=before.others, own=before.own, generation=generation)
    finished = counted.successes - last.successes + counted.failures - last.failures
    own = min(before.own, finished)
    worked = counted.work > last.work
    traffic = _traffic(last, counted, own)
    return replace(
        before,
        counted=counted,
        looked=now,
        still=0.0 if worked else before.still + passed,
        blind=0.0,
        others=now if worked and traffic.successes else before.others,
        own=before.own - own,
        recent=(*before.recent, traffic)[-_REMEMBERED:],
    )


def _traffic(last: Counted, counted: Counted, own: int) -> Traffic:
    """Clients' share, if `own` of the requests were the sidecar's: successes first."""
    successes, failures = counted.successes - last.successes, counted.failures - last.failures
    ours = min(own, successes)
    share = (successes - ours) / successes if successes else 0.0
    return Traffic(
        successes=successes - ours,
        failures=failures - (own - ours),
        seconds=max(counted.seconds - last.seconds, 0.0) * share,
    )


def unanswered(
    canary: Canary,
    since: float,
    stall: float,
    progress: Progress,
    now: float,
    held: HeldUp = NOT_HELD,
) -> Finding:
    """The finding for a canary that has not been answered in time.

    Args:
        canary: the canary.
        since: when it was sent.
        stall: seconds without progress after which a model is hung.
        progress: the model's progress.
        now: the time.
        held: for how long other models may hold up the canary.
    """
    elapsed, timeout, model = now - since, canary.timeout, canary.model
    end = stall + held.seconds
    if progress.known and progress.still >= end:
        reason = Reason.MODEL_HUNG
        detail = f"the canary is waiting, and nothing has finished for {end:g} s"
    elif progress.blind >= end and elapsed >= end:
        reason = Reason.CANARY_UNANSWERED
        detail = f"no answer within {end:g} s, and no statistics to tell why"
    elif held.seconds and (progress.still >= stall or progress.blind >= stall):
        reason = Reason.MODEL_BUSY
        detail = f"no answer within {stall:g} s: {held.why}"
    elif progress.others_since(since):
        reason, detail = Reason.MODEL_BUSY, f"no answer within {timeout:g} s while others finish"
    else:
        reason, detail = Reason.CANARY_LATE, f"no answer within {timeout:g} s"
    strain = max(elapsed / timeout, 1.0)
    return Finding(Layer.CANARY, model, reason, f"{model}: {detail}", elapsed, strain)


def refused(
    canary: Canary,
    why: str,
    since: float,
    stall: float,
    progress: Progress,
    now: float,
    held: HeldUp = NOT_HELD,
) -> Finding:
    """The finding for a canary refused for load: requests are queued, so the model works or hangs.

    Args:
        canary: the canary.
        why: Triton's error.
        since: when the first of the refused canaries in a row was sent.
        stall: seconds without progress after which a model is hung.
        progress: the model's progress.
        now: the time.
        held: for how long other models may hold up the canary.
    """
    reason, detail = Reason.MODEL_BUSY, why
    end = stall + held.seconds
    if progress.known and progress.still >= end:
        reason = Reason.MODEL_HUNG
        detail = f"its queue accepts no requests, and nothing has finished for {end:g} s: {why}"
    elif progress.blind >= stall and now - since >= stall:
        reason = Reason.CANARY_UNANSWERED
        detail = f"refused for {stall:g} s, and no statistics to tell why: {why}"
    return Finding(Layer.CANARY, canary.model, reason, f"{canary.model}: {detail}", now - since)


def answered(
    canary: Canary, answer: Answer, since: float, progress: Progress, held: HeldUp = NOT_HELD
) -> Finding:
    """The finding for a correct answer, given the canary's budgets.

    An answer that took too long is no failure if other requests finished in the meantime, because
    it was queued; nor if that is unknown, or if other models held it up.
    """
    budgets, name = canary.budgets, canary.model
    warn = budgets.warn if budgets.warn is not None else canary.timeout
    over = [
        (seconds, what, budget, fails)
        for seconds, what, budget, fails in (
            (answer.seconds, "latency.fail", budgets.fail, True),
            (answer.first, "latency.first_fail", budgets.first_fail, True),
            (answer.seconds, "timeout" if budgets.warn is None else "latency.warn", warn, False),
            (answer.first, "latency.first_warn", budgets.first_warn, False),
        )
        if budget is not None and seconds > budget
    ]
    if not over:
        return Finding(Layer.CANARY, name, Reason.OK, "", answer.seconds)
    seconds, what, budget, fails = over[0]
    alone = progress.known and not progress.others_since(since) and not held.seconds
    failed = fails and alone
    reason = Reason.CANARY_TOO_SLOW if failed else Reason.CANARY_SLOW
    detail = f"{name}: the answer took longer than {what}, {budget:g} s"
    strain = max(taken / allowed for taken, _, allowed, _ in over)
    return Finding(Layer.CANARY, name, reason, detail, seconds, strain)


def progress_finding(model: str, progress: Progress, refusal: str = "") -> Finding:
    """Whether a model's counters can be read; `refusal` is Triton's reason for not admitting us."""
    if progress.known:
        return Finding(Layer.PROGRESS, model, Reason.OK)
    detail = f"{model}: Triton reports no statistics for it"
    return Finding(Layer.PROGRESS, model, Reason.STATISTICS_UNAVAILABLE, detail, remark=refusal)


def traffic_finding(
    model: str, progress: Progress, budget: float | None, failing: float
) -> Finding:
    """The finding on clients' requests; OK without any.

    Args:
        model: their model.
        progress: their outcome.
        budget: mean seconds above which they are slow; None for no budget.
        failing: share of failures, from 0 to 1, above which too many fail.
    """
    failures = sum(traffic.failures for traffic in progress.recent)
    finished = failures + sum(traffic.successes for traffic in progress.recent)
    if failures >= _FEW and failures > failing * finished:
        detail = f"{model}: more than {failing:.0%} of the clients' requests fail"
        return Finding(Layer.TRAFFIC, model, Reason.TRAFFIC_FAILING, detail)
    latency = progress.traffic.latency
    if budget is not None and latency is not None and latency > budget:
        detail = f"{model}: clients' requests take longer than {budget:g} s on average"
        return Finding(Layer.TRAFFIC, model, Reason.TRAFFIC_SLOW, detail, latency, latency / budget)
    return Finding(Layer.TRAFFIC, model, Reason.OK, "", latency or 0.0)


def pace(traffic: Traffic, took: float | None, rules: ProbeRules, models: int) -> float:
    """Seconds until a model's next canary.

    While clients are answered, a wrong answer would be theirs: cheap canaries become more frequent,
    within `canary_share` of the time, and half of the rate limit of all models. Expensive ones
    become rarer, because clients' successes show that the model is alive.

    Args:
        traffic: the outcome of clients' newest requests.
        took: seconds that a canary takes; None if that is not known.
        rules: the intervals and limits.
        models: how many models share the rate limit.
    """
    every = rules.every
    if traffic.failures:
        return rules.fast_interval
    if not traffic.successes or took is None:
        return every.canary
    soonest = max(every.canary / _MORE_OFTEN, 2 * models / rules.rate(models))
    return min(max(took / rules.canary_share, soonest), every.canary_floor)
