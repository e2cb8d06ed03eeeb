"""The guard of a release: whether it does so badly that it is rolled back, without asking anybody.

A rollback takes effect here and now, whether or not Consul can be told: `Rollback.apply_to`. It is
about one release as it was ordered; whatever is ordered next is judged anew. It outlives the
process, with all that is known of it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from sidecar.traffic.policy import Guard, Release, TrafficPolicy


@dataclass(frozen=True, slots=True)
class Observation:
    """What became of the requests that were sent to a release within the last `span` seconds.

    `failed` are those that their clients saw fail, and `sent_again` those that were answered at
    another attempt; a request may be both, if that answer was an error. `latencies` are how many
    took up to so many seconds, and more than those of the pair before.
    """

    requests: int = 0
    failed: int = 0
    sent_again: int = 0
    latencies: tuple[tuple[float, int], ...] = ()
    span: float = 0.0

    @property
    def bad(self) -> int:
        """Requests that failed or were sent again; none counts twice beyond all of them."""
        return min(self.requests, self.failed + self.sent_again)

    @property
    def measured(self) -> int:
        """Requests whose latency is known: those that an instance has answered to the end."""
        return sum(count for _, count in self.latencies)

    @property
    def p99(self) -> float:
        """Seconds that 99 of 100 requests took at most; 0 if none was measured."""
        counted, all_of_them = 0, self.measured
        for seconds, count in self.latencies:
            counted += count
            if counted * 100 >= all_of_them * 99:
                return seconds
        return 0.0


def merged(seen: Iterable[Observation]) -> Observation:
    """What several Envoys have seen."""
    found, bins = list(seen), dict[float, int]()
    for each in found:
        for seconds, count in each.latencies:
            bins[seconds] = bins.get(seconds, 0) + count
    return Observation(
        requests=sum(each.requests for each in found),
        failed=sum(each.failed for each in found),
        sent_again=sum(each.sent_again for each in found),
        latencies=tuple(sorted(bins.items())),
        span=max((each.span for each in found), default=0.0),
    )


def judge(guard: Guard, seen: Observation) -> str | None:
    """Why the release has to be rolled back, in one sentence; None while it need not be."""
    return _errors(guard, seen) or _latency(guard, seen)


def _errors(guard: Guard, seen: Observation) -> str | None:
    allowed = guard.max_error_percent
    if allowed is None or not 0 < seen.requests >= guard.min_requests:
        return None
    percent = 100 * seen.bad / seen.requests
    if percent <= allowed:
        return None
    return (
        f"{seen.bad:,} of {seen.requests:,} requests ({percent:.3g} %) failed or were sent again "
        f"within {seen.span:.0f} s; the guard allows {allowed:g} %"
    )


def _latency(guard: Guard, seen: Observation) -> str | None:
    allowed = guard.max_latency
    if allowed is None or not 0 < seen.measured >= guard.min_requests or seen.p99 <= allowed:
        return None
    return (
        f"the 99th percentile of {seen.measured:,} requests within {seen.span:.0f} s was up to "
        f"{_duration(seen.p99)}; the guard allows {_duration(allowed)}"
    )


def _duration(seconds: float) -> str:
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:g} ms"


@dataclass(frozen=True, slots=True)
class Rollback:
    """A release that was rolled back, as it had been ordered, and why.

    `answered` is the index of a document that does not order it any more: written by us, or found.
    0 while none is known.
    """

    release: Release
    why: str
    answered: int = 0

    def applies(self, release: Release | None) -> bool:
        """Whether that is still what is ordered."""
        return release == self.release

    def apply_to(self, policy: TrafficPolicy) -> TrafficPolicy:
        """A policy that orders the release, with the rollback."""
        return replace(policy, release=replace(self.release, rolled_back=self.why))
