"""The connected Envoys, their streams and load reports.

Acts: asyncio.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field

from sidecar.runtime.clock import Clock
from sidecar.runtime.latest import Latest, first_of
from sidecar.xds.ads.ads_stream import AdsStream
from sidecar.xds.ads.subscription import Acked, Nacked, Reply
from sidecar.xds.catalog.catalog import Catalog
from sidecar.xds.config.endpoints import service_of
from sidecar.xds.config.snapshot import Snapshot
from sidecar.xds.envoys.client_status import Nack
from sidecar.xds.envoys.drain_status import DrainStatus, EnvoyView, drain_status, is_idle
from sidecar.xds.envoys.load_report import LoadReport, Place
from sidecar.xds.envoys.primary_status import PrimaryStatus, primary_status
from sidecar.xds.publication import Publication

# Seconds for which an Envoy without a stream counts as unknown: it continues to serve. Above its
# back-off until it reconnects (envoy/bootstrap.yaml allows 2 s), and the 5 s after which Envoy
# reopens a broken load-report stream.
ABSENCE = 8.0
# Minimum seconds between two looks at a drain: a hundred Envoys report 200 times a second.
PACE = 0.1


@dataclass(eq=False, slots=True)
class EnvoyStream:
    """One ADS stream; `node` is the id from the bootstrap, empty until Envoy has sent it.

    Times are monotonic seconds. `offered` is the `Latest.version` of the snapshot sent last, and
    `behind` since when Envoy has not acknowledged everything published.
    """

    ads: AdsStream
    node: str = ""
    since: float = 0.0
    offered: int = 0
    behind: float | None = None
    nacks: dict[str, Nack] = field(default_factory=dict)
    outstanding: list[Reply] = field(default_factory=list)
    # Answered responses, with the time of the acknowledgement (None for a rejection), until it is
    # clear whether others follow.
    answered: list[tuple[Reply, float | None]] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False

    def record(self, outcome: Acked | Nacked, now: float, wall: float) -> None:
        """Record Envoy's answer."""
        reply = outcome.reply
        self.outstanding.remove(reply)
        if isinstance(outcome, Nacked):
            self.answered.append((reply, None))
            self.nacks[reply.type_url] = Nack(reply.version, outcome.reason, wall)
            return
        self.answered.append((reply, now))
        if not self.ads.subscriptions[reply.type_url].rejecting:
            self.nacks.pop(reply.type_url, None)

    def update_lag(self, snapshot: Snapshot, changed_at: float) -> None:
        """Update how far it is behind a snapshot that was published at `changed_at`.

        Rejections of resources that are no longer published are forgotten.
        """
        subscriptions = self.ads.subscriptions
        for type_url in [each for each in self.nacks if not subscriptions[each].rejecting]:
            del self.nacks[type_url]
        if not self.ads.behind(snapshot):
            self.behind = None
        elif self.behind is None:
            self.behind = max(changed_at, self.since)


class Envoys:
    """All streams and load reports.

    `news` counts changes of streams, and `reported` load reports. `reports` holds the newest one of
    each Envoy that is connected, or was until a moment ago.
    """

    def __init__(self, clock: Clock) -> None:
        self.streams: set[EnvoyStream] = set()
        self.news: Latest[int] = Latest(0)
        self.reported: Latest[int] = Latest(0)
        self.reports: dict[str, LoadReport] = {}
        self._clock = clock
        self._nodes: Counter[str] = Counter()
        # By node, when its stream ended. At the start we may be a successor whose Envoys, all still
        # without a name, are about to reconnect.
        self._absent: dict[str, float] = {"": clock.now()}

    @property
    def rejecting(self) -> int:
        """How many run an older configuration because they rejected a newer one. Thread-safe."""
        return sum(each.ads.rejecting for each in tuple(self.streams))

    def changed(self) -> None:
        """Something about an Envoy has changed."""
        self.news.set(self.news.value + 1)

    def add(self, stream: EnvoyStream) -> None:
        """A stream was opened."""
        self.streams.add(stream)
        self._count(stream.node, 1)
        self.changed()

    def identify(self, stream: EnvoyStream, node: str) -> bool:
        """Set a stream's node id; returns whether no other stream has it."""
        self._count(stream.node, -1)
        self._count(node, 1)
        stream.node = node
        self._absent.pop(node, None)
        self.changed()
        return not self._shared(node)

    def remove(self, stream: EnvoyStream) -> None:
        """A stream has ended. Its Envoy is absent, unless it already has a newer stream.

        If a connection was cut, or Envoy restarts itself, the newer stream begins first.
        """
        self.streams.discard(stream)
        self._count(stream.node, -1)
        self.reports.pop(stream.node, None)  # it may be from another Envoy with the same id
        self._expire_absent()
        if stream.node and not self._succeeded(stream):
            self._absent[stream.node] = self._clock.now()
        self.changed()

    def report(self, node: str, report: LoadReport) -> None:
        """Store a load report. One from an Envoy that is gone, or not admitted yet, is ignored."""
        if node in self._nodes or node in self._absent:
            self.reports[node] = report
            self.reported.set(self.reported.value + 1)

    async def watch_drain(
        self, publication: Publication, service: str, instance: str
    ) -> AsyncIterator[DrainStatus]:
        """The progress of an instance's withdrawal, now and soon after each change; never ends."""
        since: dict[EnvoyStream, float] = {}
        last = None
        while True:
            pause = self._expire_absent()
            seen, now = (self.news.version, self.reported.version), self._clock.now()
            # The first look that shows it sets the time, at most a moment late.
            since = {
                stream: since.get(stream, now)
                for stream in self.streams
                if stream.ads.acknowledges_without(service, instance)
            }
            snapshot = publication.snapshot.value
            views = self._views(since)
            if snapshot is not None and service not in snapshot.services:
                views = []  # our Envoys do not know that service
            places, left = _places(snapshot, service, instance, views)
            status = drain_status(views, places, left)
            if status != last:
                last = status
                yield status
            await first_of(
                self._clock, pause, self.news.changed(seen[0]), self.reported.changed(seen[1])
            )
            if (early := now + PACE - self._clock.now()) > 0:
                await self._clock.sleep(early)

    async def empty_clusters(self, publication: Publication) -> None:
        """Drop former clusters on which nothing is in flight any more; never returns.

        These are published ones, and those that Envoys already had.
        """
        since: dict[EnvoyStream, float] = {}
        dated = publication.reroutings
        while True:
            pause, now = self._expire_absent(), self._clock.now()
            former, snapshot = publication.lingering, publication.snapshot.value
            seen = former.version, self.news.version, self.reported.version
            if publication.reroutings != dated:  # the acknowledged routes are outdated
                since, dated = {}, publication.reroutings
            inheriting = [stream for stream in self.streams if stream.ads.inherited]
            since = {
                stream: since.get(stream, now)
                for stream in (self.streams if former.value else inheriting)
                if snapshot and (stream in since or not stream.ads.behind(snapshot))
            }
            for cluster in former.value:
                if is_idle(self._views(since), cluster):
                    publication.drop_former_cluster(cluster)
            for stream in inheriting:
                self._drop_idle_inherited(stream, since.get(stream))
            changes = [former.changed(seen[0]), self.news.changed(seen[1])]
            if former.value or inheriting:
                changes.append(self.reported.changed(seen[2]))
            await first_of(self._clock, pause, *changes)
            if (early := now + PACE - self._clock.now()) > 0:
                await self._clock.sleep(early)

    def _drop_idle_inherited(self, stream: EnvoyStream, since: float | None) -> None:
        """Drop those inherited clusters of an Envoy on which it has nothing in flight."""
        view = EnvoyView(stream.node, since, self._report(stream.node))
        for cluster in stream.ads.inherited:
            if is_idle([view], cluster):
                stream.ads.drop_inherited(cluster)
                stream.wake.set()

    async def watch_primary(
        self, catalog: Latest[Catalog | None], publication: Publication, service: str
    ) -> AsyncIterator[PrimaryStatus]:
        """The primary and how many Envoys follow it, now and after each change; never ends."""
        last = None
        while True:
            pause = self._expire_absent()
            seen = catalog.version, publication.snapshot.version, self.news.version
            status = primary_status(
                service,
                catalog.value,
                publication.snapshot.value,
                [stream.ads for stream in self.streams],
                len(self._absent),
            )
            if status != last:
                last = status
                yield status
            await first_of(
                self._clock,
                pause,
                catalog.changed(seen[0]),
                publication.snapshot.changed(seen[1]),
                self.news.changed(seen[2]),
            )

    def _views(self, since: Mapping[EnvoyStream, float]) -> list[EnvoyView]:
        connected = [
            EnvoyView(stream.node, since.get(stream), self._report(stream.node))
            for stream in self.streams
        ]
        return connected + [EnvoyView(node, None, None) for node in self._absent]

    def _report(self, node: str) -> LoadReport | None:
        """The node's report, if only one Envoy can have sent it."""
        return None if self._shared(node) else self.reports.get(node)

    def _count(self, node: str, more: int) -> None:
        self._nodes[node] += more
        if not self._nodes[node]:
            del self._nodes[node]

    def _succeeded(self, ended: EnvoyStream) -> bool:
        """Whether a stream of the same node began after one that has ended."""
        return any(each.node == ended.node and each.since >= ended.since for each in self.streams)

    def _shared(self, node: str) -> bool:
        return self._nodes[node] > 1

    def _expire_absent(self) -> float | None:
        """Forget Envoys that have been absent for long; returns the seconds until the next one."""
        now = self._clock.now()
        for node, since in list(self._absent.items()):
            if now >= since + ABSENCE:
                del self._absent[node]
                if node not in self._nodes:
                    self.reports.pop(node, None)
        return min((since + ABSENCE - now for since in self._absent.values()), default=None)


def _places(
    snapshot: Snapshot | None, service: str, instance: str, views: Iterable[EnvoyView]
) -> tuple[list[Place], list[Place]]:
    """Where load reports may count an instance: the places that list it, and former ones."""
    found = snapshot.find(service, instance) if snapshot else None
    if snapshot is None or found is None:
        return [], []
    listed = [(name, found.address, found.port) for name in snapshot.clusters(service)]
    reported = {place for view in views if view.report for place in view.report.in_flight}
    left = [
        place
        for place in reported - set(listed)
        if service_of(place[0]) == service and place[1:] == found.endpoint
    ]
    return listed, left
