"""The Envoys that are connected, and what is known of each."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from sidecar.latest import Latest
from sidecar.xds.conversation import Conversation
from sidecar.xds.drain import DrainStatus, EnvoyView, drain_status
from sidecar.xds.load import LoadReport
from sidecar.xds.publication import Publication
from sidecar.xds.subscription import Reply


@dataclass(eq=False, slots=True)
class EnvoyStream:
    """One ADS stream; `node` is the id from the bootstrap, empty until it was said."""

    conversation: Conversation
    node: str = ""
    outstanding: list[Reply] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False


class Envoys:
    """All streams and load reports. `news` counts whatever may change the state of a drain."""

    def __init__(self) -> None:
        self.streams: set[EnvoyStream] = set()
        self.news: Latest[int] = Latest(0)
        self._reports: dict[str, LoadReport] = {}

    def changed(self) -> None:
        """Something about an Envoy has changed."""
        self.news.set(self.news.value + 1)

    def add(self, stream: EnvoyStream) -> None:
        """A stream was opened."""
        self.streams.add(stream)
        self.changed()

    def remove(self, stream: EnvoyStream) -> None:
        """A stream has ended."""
        self.streams.discard(stream)
        if all(other.node != stream.node for other in self.streams):
            self._reports.pop(stream.node, None)
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
        async for _ in self.news:
            now = publication.clock.now()
            # Looked at after each event, so the first look that shows it dates it well enough.
            since = {
                stream: since.get(stream, now)
                for stream in self.streams
                if stream.conversation.acknowledges_without(service, instance)
            }
            views = [
                EnvoyView(stream.node, since.get(stream), self._reports.get(stream.node))
                for stream in self.streams
            ]
            snapshot = publication.snapshot.value
            if snapshot is not None and service not in snapshot.services:
                views = []  # our Envoys know nothing of that service
            found = snapshot.find(service, instance) if snapshot else None
            place = (service, found.address, found.port) if found else None
            status = drain_status(views, place)
            if status != last:
                last = status
                yield status
