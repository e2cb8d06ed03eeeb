"""What clients noticed of a fault, from the samples of the load alone. Pure.

Nothing here asks a design what it did, so that the same is measured for each.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from sidecar.drill.samples import Sample

SLOW = 1.0  # seconds, beyond which an answer that takes milliseconds is a disturbance
_STILL = 5.0  # seconds before the end of the window


@dataclass(frozen=True, slots=True)
class Seen:
    """What clients noticed of the requests that were due while the fault lasted. Times are seconds.

    Attributes:
        sent, failed, wrong: unary requests.
        longest_gap: the longest time that any one connection was without a right answer.
        rto: how long after the injection the last request was due that failed, was wrong or took
            more than `SLOW`; None if such were due until the fault was removed.
        p99, p99_before: of answered unary requests, during the fault and before it.
    """

    sent: int
    failed: int
    wrong: int
    longest_gap: float
    rto: float | None
    p99: float
    p99_before: float


def seen(samples: Sequence[Sample], injected: float, removed: float) -> Seen:
    """What clients noticed of a fault that lasted from `injected` to `removed`."""
    unary = [one for one in samples if one.kind == "unary"]
    during = [one for one in unary if injected <= one.due < removed]
    # Requests in flight at the injection are the fault's, too.
    during += [one for one in unary if one.due < injected <= one.ended]
    before = [one for one in unary if one.ended < injected]
    return Seen(
        sent=len(during),
        failed=_count(during, "failed"),
        wrong=_count(during, "wrong"),
        longest_gap=_longest_gap(unary, injected, removed),
        rto=_rto(during, injected, removed),
        p99=_p99(during),
        p99_before=_p99(before),
    )


def _count(samples: Sequence[Sample], outcome: str) -> int:
    return sum(one.outcome == outcome for one in samples)


def _rto(samples: Sequence[Sample], injected: float, removed: float) -> float | None:
    disturbed = [one.due for one in samples if one.outcome != "answered" or one.took > SLOW]
    last = max(disturbed, default=injected)
    return None if last > removed - _STILL else max(0.0, last - injected)


def _longest_gap(samples: Sequence[Sample], injected: float, removed: float) -> float:
    gaps = [0.0]
    for client in {one.client for one in samples}:
        answers = sorted(
            one.ended for one in samples if one.client == client and one.outcome == "answered"
        )
        before = max((at for at in answers if at < injected), default=injected)
        inside = [at for at in answers if injected <= at < removed]
        after = min((at for at in answers if at >= removed), default=removed)
        moments = [before, *inside, min(after, removed)]
        gaps += [later - earlier for earlier, later in itertools.pairwise(moments)]
    return max(gaps)


def _p99(samples: Sequence[Sample]) -> float:
    times = sorted(one.took for one in samples if one.outcome == "answered")
    return times[max(0, math.ceil(len(times) * 0.99) - 1)] if times else float("nan")
