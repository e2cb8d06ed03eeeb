"""The Envoys that are connected, and what is known of each."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from sidecar.clock import Clock
from sidecar.latest import Latest, first_of
from sidecar.xds.catalog import Catalog
from sidecar.xds.clients import Refusal
from sidecar.xds.conversation import Conversation
from sidecar.xds.drain import DrainStatus, EnvoyView, drain_status
from sidecar.xds.endpoints import clusters_of
from sidecar.xds.load import LoadReport, Place
from sidecar.xds.primary import PrimaryStatus, primary_status
from sidecar.xds.publication import Publication
from sidecar.xds.snapshot import Snapshot
from sidecar.xds.subscription import Acknowledged, Refused, Reply

# Seconds for which an Envoy without a stream counts as one of which nothing is known: it goes on
# serving. Above its back-off until it calls again (envoy/bootstrap.yaml allows 2 s), and the 5 s
# after which Envoy repeats a broken stream of load reports.
ABSENCE = 8.0


@dataclass(eq=False, slots=True)
class EnvoyStream:
    """One ADS stream; `node` is the id from the bootstrap, empty until it was said.

    Times are monotonic seconds. `told` counts the snapshots (`Latest.version`), and `behind` is
    since when something of what is published was not confirmed.
    """

    conversation: Conversation
    node: str = ""
    since: float = 0.0
    told: int = 0
    behind: float | None = None
    refusals: dict[str, Refusal] = field(default_factory=dict)
    outstanding: list[Reply] = field(default_factory=list)
    # Replies that were answered, and when they were confirmed if they were, until it is clear
    # whether others follow.
    answered: list[tuple[Reply, float | None]] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False

    def note(self, outcome: Acknowledged | Refused, now: float, wall: float) -> None:
        """Remember what Envoy has answered."""
        reply = outcome.reply
        self.outstanding.remove(reply)
        if isinstance(outcome, Refused):
            self.answered.append((reply, None))
            self.refusals[reply.type_url] = Refusal(reply.version, outcome.reason, wall)
            return
        self.answered.append((reply, now))
        if not self.conversation.subscriptions[reply.type_url].refusing:
            self.refusals.pop(reply.type_url, None)

    def follow(self, snapshot: Snapshot, changed_at: float) -> None:
        """Take note of how far it is behind a snapshot that has been there since `changed_at`."""
        if not self.conversation.behind(snapshot):
            self.behind = None
        elif self.behind is None:
            self.behind = max(changed_at, self.since)


class Envoys:
    """All streams and load reports. `news` counts whatever may change the state of a drain."""

    def __init__(self, clock: Clock) -> None:
        self.streams: set[EnvoyStream] = set()
        self.news: Latest[int] = Latest(0)
        self._clock = clock
        self._reports: dict[str, LoadReport] = {}
        # By node, when its stream ended. At the start we may be a successor whose Envoys, none
        # of which has a name yet, are on their way.
        self._absent: dict[str, float] = {"": clock.now()}

    def changed(self) -> None:
        """Something about an Envoy has changed."""
        self.news.set(self.news.value + 1)

    def add(self, stream: EnvoyStream) -> None:
        """A stream was opened."""
        self.streams.add(stream)
        self.changed()

    def name(self, stream: EnvoyStream, node: str) -> bool:
        """A stream has said whose it is; whether no other one says the same."""
        stream.node = node
        self._absent.pop(node, None)
        self.changed()
        return not self._shared(node)

    def remove(self, stream: EnvoyStream) -> None:
        """A stream has ended."""
        self.streams.discard(stream)
        self._reports.pop(stream.node, None)
        self._forget()
        if stream.node:
            self._absent[stream.node] = self._clock.now()
        self.changed()

    def report(self, node: str, report: LoadReport) -> None:
        """An Envoy reported its load."""
        self._reports[node] = report
        self.changed()

    async def watch_drain(
        self, publication: Publication, service: str, instance: str
    ) -> AsyncIterator[DrainStatus]:
        """The state of an instance's withdrawal, now and after each change, for ever."""
        since: dict[EnvoyStream, float] = {}
        last = None
        while True:
            pause = self._forget()
            version, now = self.news.version, self._clock.now()
            # Looked at after each event, so the first look that shows it dates it well enough.
            since = {
                stream: since.get(stream, now)
                for stream in self.streams
                if stream.conversation.acknowledges_without(service, instance)
            }
            snapshot = publication.snapshot.value
            views = self._views(since)
            if snapshot is not None and service not in snapshot.services:
                views = []  # our Envoys know nothing of that service
            places, left = _places(snapshot, service, instance)
            status = drain_status(views, places, left)
            if status != last:
                last = status
                yield status
            await first_of(self._clock, pause, self.news.changed(version))

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
        return None if self._shared(node) else self._reports.get(node)

    def _shared(self, node: str) -> bool:
        return sum(stream.node == node for stream in self.streams) > 1

    def _forget(self) -> float | None:
        """Give up those that have been away for long; gives the seconds until the next one."""
        now = self._clock.now()
        for node, since in list(self._absent.items()):
            if now >= since + ABSENCE:
                del self._absent[node]
        return min((since + ABSENCE - now for since in self._absent.values()), default=None)


def _places(
    snapshot: Snapshot | None, service: str, instance: str
) -> tuple[list[Place], list[Place]]:
    """Where an instance is counted, by cluster: where it is listed, and where it may have been."""
    found = snapshot.find(service, instance) if snapshot else None
    if snapshot is None or found is None:
        return [], []
    every = {name: (name, found.address, found.port) for name in clusters_of(service)}
    listed = [name for name in every if name in snapshot.assignments]
    return [every[name] for name in listed], [every[name] for name in every if name not in listed]
