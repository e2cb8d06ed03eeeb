"""How many requests failed, as Envoys count them: each once, however often it was retried.

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

# A stream, or an answer, that was cut after it had begun: it has no status that could be counted.
_CUT = f"http.{LISTENER}.rq_reset_after_downstream_response_started"
_SENT_AGAIN = "upstream_rq_retry_success"
_RESETS = ("upstream_rq_rx_reset", "upstream_rq_pending_failure_eject")
_RETRIES = ("upstream_rq_retry", "upstream_rq_retry_limit_exceeded", "upstream_rq_retry_overflow")
_TIME = "upstream_rq_time"
# Envoy adds what it has measured to its histograms when it flushes its statistics: seconds, with
# the bootstrap's default.
_FLUSH = 5.0


@dataclass(frozen=True, slots=True)
class Latencies:
    """How many requests took how long: by Envoy's bins, each a tenth wide or less.

    The key is where a bin ends, in whole microseconds.
    """

    bins: Mapping[int, int] = field(default_factory=dict)

    def since(self, before: "Latencies") -> "Latencies":
        """What has been added; all of it, if Envoy has begun anew."""
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
        """Sorted; bins in seconds."""
        return tuple((key / 1_000_000, count) for key, count in sorted(self.bins.items()))


@dataclass(frozen=True, slots=True)
class Counts:
    """Envoy's counters since it was started: ended with OK, with another status, and cut.

    Of releases also how many requests were answered at another attempt, how many attempts ended
    with a lost connection or a reset, and how many attempts were followed by another one, or would
    have been if it was not one too many.
    """

    succeeded: int = 0
    failed: int = 0
    cut: int = 0
    sent_again: int = 0
    resets: int = 0
    retries: int = 0

    def since(self, before: "Counts") -> "Counts":
        """What has been added; all of it, if Envoy has begun anew."""
        added = [now - then for now, then in zip(self._all(), before._all(), strict=True)]
        return self if min(added) < 0 else Counts(*added)

    def plus(self, other: "Counts") -> "Counts":
        """The sum."""
        return Counts(*(a + b for a, b in zip(self._all(), other._all(), strict=True)))

    @property
    def failures(self) -> int:
        """Requests that their clients saw fail."""
        return self.failed + self.cut

    @property
    def requests(self) -> int:
        """Requests that have ended."""
        return self.succeeded + self.failures

    def _all(self) -> tuple[int, ...]:
        return tuple(getattr(self, each.name) for each in fields(self))


@dataclass(frozen=True, slots=True)
class Tally:
    """What was counted and measured under one name: of a cluster, or of the listener."""

    counts: Counts = Counts()
    latencies: Latencies = Latencies()

    def since(self, before: "Tally") -> "Tally":
        """What has been added. Envoy may begin the two anew at different times."""
        latencies = self.latencies.since(before.latencies)
        return Tally(self.counts.since(before.counts), latencies)

    def plus(self, other: "Tally") -> "Tally":
        """The sum."""
        return Tally(self.counts.plus(other.counts), self.latencies.plus(other.latencies))


def stats_filter(services: Iterable[str]) -> str:
    """The regular expression by which Envoy's admin interface selects the statistics."""
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
    """What has been counted for each of `names_of` the services, from Envoy's statistics in JSON.

    Envoy makes a counter when it counts first, so one that is missing is 0.

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
    """Of bins in milliseconds."""
    ends = ((round((each["lower_bound"] + each["width"]) * 1000), each["count"]) for each in bins)
    return Latencies({end: _whole(count) for end, count in ends})


def _whole(value: Any) -> int:
    if not isinstance(value, int):
        raise ValueError(f"expected a counter, found {value!r}")
    return value


class Ring:
    """What one Envoy has counted for the last so many seconds."""

    def __init__(self, kept: float) -> None:
        """`kept` seconds are remembered."""
        self._kept = kept
        self._read: Mapping[str, Tally] = {}
        # When it was read (monotonic seconds), and what came together since we look.
        self._totals: deque[tuple[float, Mapping[str, Tally]]] = deque()

    @property
    def newest(self) -> float:
        """When the counters were read last; minus infinity before that."""
        return self._totals[-1][0] if self._totals else -math.inf

    def add(self, at: float, read: Mapping[str, Tally]) -> None:
        """Envoy's counters were read; what it counted before the first time is not counted."""
        before = self._totals[-1][1] if self._totals else {}
        added = {name: tally.since(self._read.get(name, tally)) for name, tally in read.items()}
        total = {name: before.get(name, Tally()).plus(each) for name, each in added.items()}
        self._totals.append((at, total))
        self._read = read
        while len(self._totals) > 1 and self._totals[1][0] <= at - self._kept:
            self._totals.popleft()

    def between(self, service: str, start: float, end: float) -> Counts | None:
        """What of a service ended within a span, and within a look before and after it.

        Envoy does not know whose the requests are that were cut: they count for every service.
        None if it was not looked at before and after, or not at that service.
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
        """What became of the requests to a service's release within the last `window` seconds.

        Args:
            service: whose release.
            since: when (monotonic seconds) it was ordered; what ended before is another's.
            window: seconds; as many more as lie between two looks.
        """
        name = release_cluster(service)
        counted = self._last(name, since, window).counts
        span = self.newest - self._base(since, window)[0]
        # Of those that were cut, at most what this cluster's lost attempts leave unexplained.
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
        """What was counted under a name from the look that `_base` finds until the newest."""
        _, first = self._base(since, window)
        last = self._totals[-1][1] if self._totals else {}
        if name not in first or name not in last:
            return Tally()
        return last[name].since(first[name])

    def _base(self, since: float, window: float) -> tuple[float, Mapping[str, Tally]]:
        """The newest look that is older than the window, or the oldest one not before `since`."""
        looks = [look for look in self._totals if look[0] >= since]
        older = [look for look in looks if look[0] <= self.newest - window]
        if older:
            return older[-1]
        return looks[0] if looks else (self.newest, {})
