"""From what a drill observed to its figures. Pure; `violations.py` judges them."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

from sidecar.drill.objectives import Objectives, budget_used
from sidecar.drill.record import Figures
from sidecar.drill.samples import Event, Mark, Sample

_PASSING = "passing"


def measure(
    samples: Sequence[Sample],
    marks: Sequence[Mark],
    *,
    injected: float,
    victim: str,
    primary: str,
    objectives: Objectives,
    retried: int | None = None,
) -> Figures:
    """The figures of one run.

    Args:
        samples: every request that ended, in any order.
        marks: every event, in any order.
        injected: when the fault was injected, on the clock of the samples.
        victim: the instance with the fault, or empty if it is the mesh's.
        primary: the instance that was primary until the injection.
        objectives: for the error budget.
        retried: the requests that Envoy sent to a second instance, if that is known.
    """
    after = [sample for sample in samples if sample.ended >= injected]
    seen = _Marks(marks, injected)
    found = _with_moments(Figures(retried=retried), seen, after, victim, primary)
    found = _with_unary(found, samples, injected)
    found = _with_availability(found, samples, objectives)
    return _with_wrong(_with_streams(found, after), after, injected, seen.verdict_reached(victim))


def _with_moments(
    found: Figures, seen: "_Marks", after: Sequence[Sample], victim: str, primary: str
) -> Figures:
    """With when each thing happened, in seconds after the injection."""

    def moved(event: Event) -> float | None:
        return seen.after(seen.first(event, lambda mark: mark.instance != primary))

    return replace(
        found,
        detection=seen.after(seen.detected(victim)),
        decision=moved("primary"),
        publication=moved("published"),
        acked=moved("acked"),
        rto=_rto(after, seen, seen.outage(victim, primary), primary),
        recovered=seen.after(seen.first("recovered")),
    )


def _with_unary(found: Figures, samples: Sequence[Sample], injected: float) -> Figures:
    """With the outcomes and latencies of unary requests, from the injection on."""
    unary = [sample for sample in samples if sample.kind == "unary"]
    after = [sample for sample in unary if sample.ended >= injected]
    times = _times(after)
    return replace(
        found,
        sent=len(after),
        failed=_count(after, "failed"),
        wrong=_count(after, "wrong"),
        p50=quantile(times, 0.5),
        p99=quantile(times, 0.99),
        p99_before=quantile(_times(each for each in unary if each.ended < injected), 0.99),
        slowest=times[-1] if times else None,
        longest_gap=longest_gap(samples, injected),
        load_lag=max((sample.late for sample in after), default=None),
    )


def _with_availability(
    found: Figures, samples: Sequence[Sample], objectives: Objectives
) -> Figures:
    """With the share of all unary requests of the run that were answered."""
    unary = [sample for sample in samples if sample.kind == "unary"]
    failed = _count(unary, "failed")
    used = budget_used(len(unary), failed, objectives)
    return replace(
        found,
        budget_used=used if math.isfinite(used) else None,
        availability=(len(unary) - failed) / len(unary) if unary else None,
    )


def _with_streams(found: Figures, after: Sequence[Sample]) -> Figures:
    """With the outcomes of streams, from the injection on."""
    streams = [sample for sample in after if sample.kind == "stream"]
    return replace(
        found,
        streams=len(streams),
        streams_cut=_count(streams, "failed"),
        streams_moved=sum(sample.moved and sample.outcome == "answered" for sample in streams),
        streams_wrong=_count(streams, "wrong"),
    )


def _with_wrong(
    found: Figures, after: Sequence[Sample], injected: float, reached: float | None
) -> Figures:
    """With when wrong answers were asked for; `reached`: the verdict had reached the Envoys."""
    sent = [sample.due for sample in after if sample.outcome == "wrong"]
    return replace(
        found,
        wrong_last=max(0.0, max(sent) - injected) if sent else None,
        wrong_after_verdict=sum(reached is not None and due > reached for due in sent),
    )


def _times(samples: Iterable[Sample]) -> list[float]:
    """How long the answered ones took, sorted."""
    return sorted(sample.took for sample in samples if sample.outcome == "answered")


def quantile(times: Sequence[float], share: float) -> float | None:
    """The time that a `share` of the sorted `times` did not exceed; None if there are none."""
    return times[min(len(times) - 1, int(len(times) * share))] if times else None


def longest_gap(samples: Iterable[Sample], injected: float) -> float | None:
    """The longest time in seconds that one client with unary requests was without a right answer.

    A gap begins when a request is due that has no answer yet, and ends with the client's next right
    answer, or the end of its last request. It counts if it ends after the injection. So a client
    that has nothing to send is not without an answer. None if no request ended after the injection.
    """
    clients: dict[int, list[Sample]] = {}
    for sample in samples:
        if sample.kind == "unary":
            clients.setdefault(sample.client, []).append(sample)
    gaps = (gap for own in clients.values() for gap in _gaps(own, injected))
    return max(gaps, default=None)


def _gaps(own: Sequence[Sample], injected: float) -> Iterator[float]:
    """The gaps of one client that end after the injection."""
    ordered = sorted(own, key=lambda sample: sample.ended)
    # For each, when the first request was due that ended no earlier.
    waiting = list(accumulate((sample.due for sample in reversed(ordered)), min))[::-1]
    following, begin = 0, -math.inf  # the first sample after the last right answer, and its time
    for place, sample in enumerate(ordered):
        if sample.outcome == "answered" or place == len(ordered) - 1:
            if sample.ended >= injected:
                yield max(0.0, sample.ended - max(begin, waiting[following]))
            following, begin = place + 1, sample.ended


def _rto(after: Sequence[Sample], seen: "_Marks", outage: float, primary: str) -> float | None:
    """The first right answer of another instance to a request sent since the outage began.

    Where answers do not name their instance, the first of an instance that is marked `traffic`;
    without such a mark, the first to a request that was sent when all Envoys preferred another
    instance, which is later than it could be.
    """
    ended = [
        sample.ended
        for sample in after
        if sample.due >= outage
        and sample.outcome == "answered"
        and sample.instance not in ("", primary)
    ]
    if ended:
        return min(ended) - outage
    if any(sample.instance for sample in after):
        return None
    if traffic := seen.first("traffic", lambda mark: mark.instance != primary):
        return max(0.0, traffic.at - outage)
    if (moved := seen.first("acked", lambda mark: mark.instance != primary)) is None:
        return None
    later = [each.ended for each in after if each.due >= moved.at and each.outcome == "answered"]
    return min(later) - outage if later else None


def _count(samples: Iterable[Sample], outcome: str) -> int:
    return sum(sample.outcome == outcome for sample in samples)


class _Marks:
    """The marks from the injection on, in order."""

    def __init__(self, marks: Iterable[Mark], injected: float) -> None:
        self._injected = injected
        self._marks = sorted(
            (mark for mark in marks if mark.at >= injected), key=lambda mark: mark.at
        )

    def after(self, mark: Mark | None) -> float | None:
        """The seconds from the injection to a mark."""
        return mark.at - self._injected if mark else None

    def first(self, event: Event, fits: Callable[[Mark], bool] = lambda mark: True) -> Mark | None:
        """The first mark of an event that fits."""
        return next((mark for mark in self._marks if mark.event == event and fits(mark)), None)

    def outage(self, victim: str, primary: str) -> float:
        """From when RTO counts.

        That is the injection, if it hit an instance. What is done to the mesh may reach its primary
        late, as when every sidecar is restarted in turn: then it is the first moment at which the
        old primary did not pass, or another instance had the lock.
        """
        if victim:
            return self._injected
        found = (
            self.detected(primary),
            self.first("primary", lambda mark: mark.instance != primary),
        )
        return min((mark.at for mark in found if mark), default=self._injected)

    def detected(self, victim: str) -> Mark | None:
        """The first verdict of the victim that is not `passing`; of any instance of a mesh."""
        return self.first(
            "verdict",
            lambda mark: (
                mark.instance in (victim, victim or mark.instance) and mark.status != _PASSING
            ),
        )

    def verdict_reached(self, victim: str) -> float | None:
        """When the victim's verdict had reached the Envoys, or as near as is known."""
        detected = self.detected(victim)
        if detected is None:
            return None
        later = [
            mark
            for event in ("acked", "published")
            if (mark := self.first(event, lambda mark: mark.at >= detected.at))
        ]
        return (later[0] if later else detected).at
