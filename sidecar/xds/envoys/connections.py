"""The Envoys that are connected, and what is known of each."""

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
from sidecar.xds.envoys.drain_status import DrainStatus, EnvoyView, deserted, drain_status
from sidecar.xds.envoys.load_report import LoadReport, Place
from sidecar.xds.envoys.primary_status import PrimaryStatus, primary_status
from sidecar.xds.publication import Publication

# Seconds for which an Envoy without a stream counts as one of which nothing is known: it goes on
# serving. Above its back-off until it calls again (envoy/bootstrap.yaml allows 2 s), and the 5 s
# after which Envoy repeats a broken stream of load reports.
ABSENCE = 8.0
# Seconds between two looks at a drain at least: a hundred Envoys report 200 times a second.
PACE = 0.1


@dataclass(eq=False, slots=True)
class EnvoyStream:
    """One ADS stream; `node` is the id from the bootstrap, empty until it was said.

    Times are monotonic seconds. `told` counts the snapshots (`Latest.version`), and `behind` is
    since when something of what is published was not confirmed.
    """

    conversation: AdsStream
    node: str = ""
    since: float = 0.0
    told: int = 0
    behind: float | None = None
    refusals: dict[str, Nack] = field(default_factory=dict)
    outstanding: list[Reply] = field(default_factory=list)
    # Replies that were answered, and when they were confirmed if they were, until it is clear
    # whether others follow.
    answered: list[tuple[Reply, float | None]] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False

    def note(self, outcome: Acked | Nacked, now: float, wall: float) -> None:
        """Remember what Envoy has answered."""
        reply = outcome.reply
        self.outstanding.remove(reply)
        if isinstance(outcome, Nacked):
            self.answered.append((reply, None))
            self.refusals[reply.type_url] = Nack(reply.version, outcome.reason, wall)
            return
        self.answered.append((reply, now))
        if not self.conversation.subscriptions[reply.type_url].refusing:
            self.refusals.pop(reply.type_url, None)

    def follow(self, snapshot: Snapshot, changed_at: float) -> None:
        """Take note of how far it is behind a snapshot that has been there since `changed_at`.

        What was refused and is not published any more is no trouble any more.
        """
        subscriptions = self.conversation.subscriptions
        for type_url in [each for each in self.refusals if not subscriptions[each].refusing]:
            del self.refusals[type_url]
        if not self.conversation.behind(snapshot):
            self.behind = None
        elif self.behind is None:
            self.behind = max(changed_at, self.since)


class Envoys:
    """All streams and load reports.

    `news` counts whatever changes about a stream, and `reported` the load reports. Of `reports`
    there is the newest one of each Envoy that is connected, or has just been.
    """

    def __init__(self, clock: Clock) -> None:
        self.streams: set[EnvoyStream] = set()
        self.news: Latest[int] = Latest(0)
        self.reported: Latest[int] = Latest(0)
        self.reports: dict[str, LoadReport] = {}
        self._clock = clock
        self._nodes: Counter[str] = Counter()
        # By node, when its stream ended. At the start we may be a successor whose Envoys, none
        # of which has a name yet, are on their way.
        self._absent: dict[str, float] = {"": clock.now()}

    @property
    def refusing(self) -> int:
        """How many go on without something that they have refused. Any thread may ask."""
        return sum(each.conversation.refusing for each in tuple(self.streams))

    def changed(self) -> None:
        """Something about an Envoy has changed."""
        self.news.set(self.news.value + 1)

    def add(self, stream: EnvoyStream) -> None:
        """A stream was opened."""
        self.streams.add(stream)
        self._count(stream.node, 1)
        self.changed()

    def name(self, stream: EnvoyStream, node: str) -> bool:
        """A stream has said whose it is; whether no other one says the same."""
        self._count(stream.node, -1)
        self._count(node, 1)
        stream.node = node
        self._absent.pop(node, None)
        self.changed()
        return not self._shared(node)

    def remove(self, stream: EnvoyStream) -> None:
        """A stream has ended. Its Envoy is away, unless it is there by a newer stream already.

        Where a connection was cut, or Envoy restarts itself, the newer stream begins first.
        """
        self.streams.discard(stream)
        self._count(stream.node, -1)
        self.reports.pop(stream.node, None)  # it may be of another Envoy with the same id
        self._forget()
        if stream.node and not self._succeeded(stream):
            self._absent[stream.node] = self._clock.now()
        self.changed()

    def report(self, node: str, report: LoadReport) -> None:
        """An Envoy reported its load. One that has gone, or is not taken on yet, does not count."""
        if node in self._nodes or node in self._absent:
            self.reports[node] = report
            self.reported.set(self.reported.value + 1)

    async def watch_drain(
        self, publication: Publication, service: str, instance: str
    ) -> AsyncIterator[DrainStatus]:
        """The state of an instance's withdrawal, now and soon after each change, for ever."""
        since: dict[EnvoyStream, float] = {}
        last = None
        while True:
            pause = self._forget()
            seen, now = (self.news.version, self.reported.version), self._clock.now()
            # The first look that shows it dates it, at most a moment too late.
            since = {
                stream: since.get(stream, now)
                for stream in self.streams
                if stream.conversation.acknowledges_without(service, instance)
            }
            snapshot = publication.snapshot.value
            views = self._views(since)
            if snapshot is not None and service not in snapshot.services:
                views = []  # our Envoys know nothing of that service
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
        """Let go of former clusters on which nothing is in flight any more, for ever.

        Those that are published, and those that Envoys came with.
        """
        since: dict[EnvoyStream, float] = {}
        dated = publication.reroutings
        while True:
            pause, now = self._forget(), self._clock.now()
            former, snapshot = publication.lingering, publication.snapshot.value
            seen = former.version, self.news.version, self.reported.version
            if publication.reroutings != dated:  # what was confirmed is other routes
                since, dated = {}, publication.reroutings
            heirs = [stream for stream in self.streams if stream.conversation.inherited]
            since = {
                stream: since.get(stream, now)
                for stream in (self.streams if former.value else heirs)
                if snapshot and (stream in since or not stream.conversation.behind(snapshot))
            }
            for cluster in former.value:
                if deserted(self._views(since), cluster):
                    publication.let_go(cluster)
            for stream in heirs:
                self._disinherit(stream, since.get(stream))
            changes = [former.changed(seen[0]), self.news.changed(seen[1])]
            if former.value or heirs:
                changes.append(self.reported.changed(seen[2]))
            await first_of(self._clock, pause, *changes)
            if (early := now + PACE - self._clock.now()) > 0:
                await self._clock.sleep(early)

    def _disinherit(self, stream: EnvoyStream, since: float | None) -> None:
        """Let go of those clusters that an Envoy came with and has nothing in flight on."""
        view = EnvoyView(stream.node, since, self._report(stream.node))
        for cluster in stream.conversation.inherited:
            if deserted([view], cluster):
                stream.conversation.let_go(cluster)
                stream.wake.set()

    async def watch_primary(
        self, catalog: Latest[Catalog | None], publication: Publication, service: str
    ) -> AsyncIterator[PrimaryStatus]:
        """Who is preferred and how many Envoys know, now and after each change, for ever."""
        last = None
        while True:
            pause = self._forget()
            seen = catalog.version, publication.snapshot.version, self.news.version
            status = primary_status(
                service,
                catalog.value,
                publication.snapshot.value,
                [stream.conversation for stream in self.streams],
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
        """The node's report, if there is only one Envoy that it can be of."""
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

    def _forget(self) -> float | None:
        """Give up those that have been away for long; gives the seconds until the next one."""
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
    """Where an instance is counted, by cluster: where it is listed, and where it still may be."""
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
