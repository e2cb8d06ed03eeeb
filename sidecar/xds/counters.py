"""How many requests failed, as Envoys count them: each once, however often it was retried.

What counts and what does not: docs/decisions/0016-failed-requests-are-counted-by-envoy.md.
"""

import json
import math
import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sidecar.xds.routes import LISTENER

# A stream, or an answer, that was cut after it had begun: it has no status that could be counted.
_CUT = f"http.{LISTENER}.rq_reset_after_downstream_response_started"


@dataclass(frozen=True, slots=True)
class Counts:
    """Envoy's counters since it was started: ended with OK, with another status, and cut."""

    succeeded: int = 0
    failed: int = 0
    cut: int = 0

    def since(self, before: "Counts") -> "Counts":
        """What has been added; all of it, if Envoy has begun anew."""
        added = Counts(
            self.succeeded - before.succeeded, self.failed - before.failed, self.cut - before.cut
        )
        return self if min(added.succeeded, added.failed, added.cut) < 0 else added

    def plus(self, other: "Counts") -> "Counts":
        """The sum."""
        return Counts(
            self.succeeded + other.succeeded, self.failed + other.failed, self.cut + other.cut
        )

    @property
    def failures(self) -> int:
        """Requests that their clients saw fail."""
        return self.failed + self.cut

    @property
    def requests(self) -> int:
        """Requests that have ended."""
        return self.succeeded + self.failures


def stats_filter(services: Iterable[str]) -> str:
    """The regular expression by which Envoy's admin interface selects the counters."""
    names = "|".join(re.escape(service) for service in services)
    return rf"^(cluster\.({names})\.grpc\.(success|failure)|{re.escape(_CUT)})$"


def read_counts(page: bytes, services: Iterable[str]) -> Mapping[str, Counts]:
    """The counters of each service from Envoy's statistics in JSON.

    Envoy makes a counter when it counts first, so one that is missing is 0. It does not know whose
    the requests are that were cut: they count for every service.

    Raises:
        ValueError: the page is something else.
    """
    try:
        stats = json.loads(page)["stats"]
        found = {stat["name"]: _whole(stat["value"]) for stat in stats if "value" in stat}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"expected Envoy's statistics, found {page[:80]!r}") from error
    return {
        service: Counts(
            found.get(f"cluster.{service}.grpc.success", 0),
            found.get(f"cluster.{service}.grpc.failure", 0),
            found.get(_CUT, 0),
        )
        for service in services
    }


def _whole(value: Any) -> int:
    if not isinstance(value, int):
        raise ValueError(f"expected a counter, found {value!r}")
    return value


class Ring:
    """What one Envoy has counted for the last so many seconds."""

    def __init__(self, kept: float) -> None:
        """`kept` seconds are remembered."""
        self._kept = kept
        self._read: Mapping[str, Counts] = {}
        # When it was read (monotonic seconds), and what came together since we look.
        self._totals: deque[tuple[float, Mapping[str, Counts]]] = deque()

    @property
    def newest(self) -> float:
        """When the counters were read last; minus infinity before that."""
        return self._totals[-1][0] if self._totals else -math.inf

    def add(self, at: float, read: Mapping[str, Counts]) -> None:
        """Envoy's counters were read; what it counted before the first time is not counted."""
        before = self._totals[-1][1] if self._totals else {}
        added = {name: counts.since(self._read.get(name, counts)) for name, counts in read.items()}
        total = {name: before.get(name, Counts()).plus(each) for name, each in added.items()}
        self._totals.append((at, total))
        self._read = read
        while len(self._totals) > 1 and self._totals[1][0] <= at - self._kept:
            self._totals.popleft()

    def between(self, service: str, start: float, end: float) -> Counts | None:
        """What ended within a span, and within a look before and after it.

        None if it was not looked at before and after, or not at that service.
        """
        before = [total for at, total in self._totals if at <= start]
        if not before or self.newest < end:
            return None
        first, last = before[-1].get(service), self._totals[-1][1].get(service)
        return last.since(first) if first is not None and last is not None else None
