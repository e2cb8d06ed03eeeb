"""Counts failed requests from Envoy's statistics: each request once, however often it was retried.

What counts and what does not: docs/decisions/0016-envoy-counts-failed-requests.md.
"""

import json
import math
import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from sidecar.traffic.guard import Observation
from sidecar.xds.config.endpoints import clusters_of, release_cluster
from sidecar.xds.config.routes import LISTENER

# A stream or response cut after it began: it has no status that could be counted.
_CUT = f"http.{LISTENER}.rq_reset_after_downstream_response_started"
_SENT_AGAIN = "upstream_rq_retry_success"
_RESETS = ("upstream_rq_rx_reset", "upstream_rq_pending_failure_eject")
_RETRIES = ("upstream_rq_retry", "upstream_rq_retry_limit_exceeded", "upstream_rq_retry_overflow")
_TIME = "upstream_rq_time"
# Seconds between Envoy's flushes of its histograms, with the bootstrap's default.
_FLUSH = 5.0


@dataclass(frozen=True, slots=True)
class Latencies:
    """A latency histogram in Envoy's bins, each at most a tenth wide.

    The key is the upper bound of a bin, in whole microseconds.
    """

    bins: Mapping[int, int] = field(default_factory=dict)

    def since(self, before: "Latencies") -> "Latencies":
        """What was added; everything if Envoy has restarted."""
        keys = self.bins.keys() | before.bins.keys()
        added = {key: self.bins.get(key, 0) - before.bins.get(key, 0) for key in keys}
        if any(count < 0 for count in added.values()):
            return self
        return Latencies({key: count for key, count in added.items() if count})

    def plus(self, other: "Latencies") -> "Latencies":
        """The sum."""
        if not other.bins:
            return self
        keys = self.bins.keys() | other.bins.keys()
        return Latencies({key: self.bins.get(key, 0) + other.bins.get(key, 0) for key in keys})

    def seconds(self) -> tuple[tuple[float, int], ...]:
        """Sorted pairs of upper bound (seconds) and count."""
        return tuple((key / 1_000_000, count) for key, count in sorted(self.bins.items()))


@dataclass(frozen=True, slots=True)
class Counts:
    """Envoy's counters since its start: requests that ended with OK, with another status, or cut.

    For releases also: requests that succeeded on a retry; attempts that ended with a lost
    connection or a reset; and attempts that were retried, or would have been within the limits.
    """

    succeeded: int = 0
    failed: int = 0
    cut: int = 0
    sent_again: int = 0
    resets: int = 0
    retries: int = 0

    def since(self, before: "Counts") -> "Counts":
        """What was added; everything if Envoy has restarted."""
        added = [now - then for now, then in zip(self._all(), before._all(), strict=True)]
        return self if min(added) < 0 else Counts(*added)

    def plus(self, other: "Counts") -> "Counts":
        """The sum."""
        return Counts(*(a + b for a, b in zip(self._all(), other._all(), strict=True)))

    @property
    def failures(self) -> int:
        """Requests that failed for their clients."""
        return self.failed + self.cut

    @property
    def requests(self) -> int:
        """Requests that have ended."""
        return self.succeeded + self.failures

    def _all(self) -> tuple[int, ...]:
        return tuple(getattr(self, each.name) for each in fields(self))


@dataclass(frozen=True, slots=True)
class Tally:
    """Counters and latencies under one name: of a cluster, or of the listener."""

    counts: Counts = Counts()
    latencies: Latencies = Latencies()

    def since(self, before: "Tally") -> "Tally":
        """What was added. Envoy may reset the two at different times."""
        latencies = self.latencies.since(before.latencies)
        return Tally(self.counts.since(before.counts), latencies)

    def plus(self, other: "Tally") -> "Tally":
        """The sum."""
        return Tally(self.counts.plus(other.counts), self.latencies.plus(other.latencies))


def stats_filter(services: Iterable[str]) -> str:
    """The regular expression that selects the statistics at Envoy's admin interface."""
    names = list(services)
    all_clusters = _any(cluster for name in names for cluster in clusters_of(name))
    releases = _any(map(release_cluster, names))
    attempts = _any((*_RESETS, *_RETRIES, _SENT_AGAIN, _TIME))
    return (
        rf"^(cluster\.{all_clusters}\.grpc\.(success|failure)"
        rf"|cluster\.{releases}\.{attempts}|{re.escape(_CUT)})$"
    )


def _any(names: Iterable[str]) -> str:
    return f"({'|'.join(map(re.escape, names))})"


def read_counts(page: bytes, services: Iterable[str]) -> Mapping[str, Tally]:
    """The tallies of the services' clusters and of cut requests, from Envoy's statistics in JSON.

    Envoy creates a counter with its first count, so a missing one is 0.

    Raises:
        ValueError: the page is something else.
    """
    try:
        stats = json.loads(page)["stats"]
        found = {stat["name"]: _whole(stat["value"]) for stat in stats if "value" in stat}
        measured = {
            each["name"]: _latencies(each["totals"])
            for stat in stats
            for each in stat.get("histograms", {}).get("details", ())
        }
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"expected Envoy's statistics, found {page[:80]!r}") from error
    cut = Tally(Counts(cut=found.get(_CUT, 0)))
    clusters = {
        name: Tally(
            _counts(f"cluster.{name}.", found), measured.get(f"cluster.{name}.{_TIME}", Latencies())
        )
        for service in services
        for name in clusters_of(service)
    }
    return {**clusters, _CUT: cut}


def _counts(prefix: str, found: Mapping[str, int]) -> Counts:
    def total(*names: str) -> int:
        return sum(found.get(prefix + name, 0) for name in names)

    return Counts(
        succeeded=total("grpc.success"),
        failed=total("grpc.failure"),
        sent_again=total(_SENT_AGAIN),
        resets=total(*_RESETS),
        retries=total(*_RETRIES),
    )


def _latencies(bins: Iterable[Mapping[str, Any]]) -> Latencies:
    """From bins in milliseconds."""
    ends = ((round((each["lower_bound"] + each["width"]) * 1000), each["count"]) for each in bins)
    return Latencies({end: _whole(count) for end, count in ends})


def _whole(value: Any) -> int:
    if not isinstance(value, int):
        raise ValueError(f"expected a counter, found {value!r}")
    return value


class Ring:
    """One Envoy's tallies over the last seconds."""

    def __init__(self, kept: float) -> None:
        """Remembers `kept` seconds."""
        self._kept = kept
        self._read: Mapping[str, Tally] = {}
        # When it was read (monotonic seconds), and the totals since the first read.
        self._totals: deque[tuple[float, Mapping[str, Tally]]] = deque()

    @property
    def newest(self) -> float:
        """When the counters were last read; minus infinity before the first read."""
        return self._totals[-1][0] if self._totals else -math.inf

    def add(self, at: float, read: Mapping[str, Tally]) -> None:
        """Add a read of Envoy's counters; counts from before the first read are ignored."""
        before = self._totals[-1][1] if self._totals else {}
        added = {name: tally.since(self._read.get(name, tally)) for name, tally in read.items()}
        total = {name: before.get(name, Tally()).plus(each) for name, each in added.items()}
        self._totals.append((at, total))
        self._read = read
        while len(self._totals) > 1 and self._totals[1][0] <= at - self._kept:
            self._totals.popleft()

    def between(self, service: str, start: float, end: float) -> Counts | None:
        """A service's requests that ended within a span, up to one read before and after it.

        Envoy cannot tell which service cut requests belong to: they count for each.
        None if there was no read before and after the span, or none of that service.
        """
        before = [total for at, total in self._totals if at <= start]
        if not before or self.newest < end:
            return None
        first, last = before[-1], self._totals[-1][1]
        names = (*clusters_of(service), _CUT)
        if not all(name in first and name in last for name in names):
            return None
        counts = Counts()
        for name in names:
            counts = counts.plus(last[name].since(first[name]).counts)
        return counts

    def released(self, service: str, since: float, window: float) -> Observation:
        """The outcome of the requests to a service's release within the last `window` seconds.

        Args:
            service: whose release.
            since: when (monotonic seconds) it was ordered; earlier requests were not its own.
            window: seconds; extended by up to the interval between two reads.
        """
        name = release_cluster(service)
        counted = self._last(name, since, window).counts
        span = self.newest - self._base(since, window)[0]
        # Of the cut requests, at most what this cluster's lost attempts leave unexplained.
        lost = counted.resets - counted.retries
        cut = max(0, min(lost, self._last(_CUT, since, window).counts.cut))
        return Observation(
            requests=counted.requests + cut,
            failed=counted.failed + cut,
            sent_again=counted.sent_again,
            latencies=self._last(name, since + _FLUSH, window).latencies.seconds(),
            span=max(0.0, span),
        )

    def _last(self, name: str, since: float, window: float) -> Tally:
        """The tally under a name from the read that `_base` finds until the newest."""
        _, first = self._base(since, window)
        last = self._totals[-1][1] if self._totals else {}
        if name not in first or name not in last:
            return Tally()
        return last[name].since(first[name])

    def _base(self, since: float, window: float) -> tuple[float, Mapping[str, Tally]]:
        """The newest read that is older than the window, or else the oldest one since `since`."""
        looks = [look for look in self._totals if look[0] >= since]
        older = [look for look in looks if look[0] <= self.newest - window]
        if older:
            return older[-1]
        return looks[0] if looks else (self.newest, {})
