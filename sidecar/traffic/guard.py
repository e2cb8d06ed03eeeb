"""The guard of a release: whether the release fails its limits and is rolled back. Pure.

A rollback takes effect at once, even if Consul cannot be written: see `Rollback.apply_to`. It is
for one release as it was ordered; the next order is judged afresh. It survives a restart.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from sidecar.traffic.policy import Guard, Release, TrafficPolicy


@dataclass(frozen=True, slots=True)
class Observation:
    """The outcomes of the requests to a release within the last `span` seconds.

    `failed` requests failed for their clients, and `sent_again` ones were answered by a retry; a
    request is both if that answer was an error. `latencies` are the bins of a histogram: an upper
    bound in seconds, and the number of requests up to it that exceed the bound before.
    """

    requests: int = 0
    failed: int = 0
    sent_again: int = 0
    latencies: tuple[tuple[float, int], ...] = ()
    span: float = 0.0

    @property
    def bad(self) -> int:
        """Requests that failed or were retried; at most all of them."""
        return min(self.requests, self.failed + self.sent_again)

    @property
    def measured(self) -> int:
        """Requests with a known latency: those that an instance answered completely."""
        return sum(count for _, count in self.latencies)

    @property
    def p99(self) -> float:
        """The 99th percentile of latency in seconds; 0 if none was measured."""
        counted, all_of_them = 0, self.measured
        for seconds, count in self.latencies:
            counted += count
            if counted * 100 >= all_of_them * 99:
                return seconds
        return 0.0


def merged(seen: Iterable[Observation]) -> Observation:
    """The observations of several Envoys as one."""
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
    """Why the release must be rolled back, in one sentence; None if it need not be."""
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
    """A release that was rolled back, as it was ordered, and why.

    `answered` is the index of a document that no longer orders it, whether written by us or found;
    0 while none is known.
    """

    release: Release
    why: str
    answered: int = 0

    def applies(self, release: Release | None) -> bool:
        """Whether the policy still orders this release."""
        return release == self.release

    def apply_to(self, policy: TrafficPolicy) -> TrafficPolicy:
        """A policy that orders the release, with its rollback."""
        return replace(policy, release=replace(self.release, rolled_back=self.why))
