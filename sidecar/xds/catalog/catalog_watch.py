"""The watching loops: blocking queries on Consul, combined into one `Catalog`."""

import asyncio
from collections.abc import Sequence
from itertools import count

from sidecar.runtime.errors import SidecarError
from sidecar.runtime.latest import Latest, first_of
from sidecar.xds.catalog.cached_state import CachedState
from sidecar.xds.catalog.catalog import Catalog
from sidecar.xds.catalog.catalog_entries import zone_of_node
from sidecar.xds.catalog.instance_watch import WatchContext
from sidecar.xds.catalog.service_watch import ServiceWatch

# Seconds until the next look for its own entry; it is registered while we start.
_SOON, _RETRY = 0.5, 5.0
_SOONS = 20  # looks
_JITTER = 0.2


class CatalogWatch:
    """All services, combined.

    `catalog` is None until something is known of one of them, and `state` is what a later life
    needs to know. A service is unsettled until its watches have been answered. The first catalog
    waits for all of them, from the first answer on for as long as any pause after a failure, since
    an Envoy may know their clusters from our predecessor; but not for long for one that Consul
    does not let us read.
    """

    def __init__(
        self,
        services: tuple[str, ...],
        means: WatchContext,
        kept: CachedState | None = None,
        zone: str | None = None,
        own: str = "",
    ) -> None:
        """Without a `zone` that of the node counts on which `own`, our own instance, is.

        Until its entry is seen, the zone that was kept does.
        """
        self.catalog: Latest[Catalog | None] = Latest(None)
        self.state: Latest[CachedState | None] = Latest(kept)
        # When (monotonic seconds) the news came that the next catalog will be made of.
        self.heard_at = means.clock.now()
        self._changes: Latest[int] = Latest(0)
        before = kept.kept if kept else {}
        self.services = tuple(
            ServiceWatch(name, means, self._news, before.get(name)) for name in services
        )
        self._means = means
        self._zone_is_set = zone is not None
        self._zone = kept.zone if zone is None and kept else zone
        self._own = own
        # When (monotonic seconds) there was the first to publish, or None.
        self._first = means.clock.now() if before else None

    async def run(self) -> None:
        """Watch and publish for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._combine())
            for watch in self.services:
                tasks.create_task(watch.run())
            if not self._zone_is_set:
                tasks.create_task(self._find_zone())

    def _news(self) -> None:
        self._changes.set(self._changes.value + 1)

    async def _combine(self) -> None:
        clock = self._means.clock
        while True:
            version = self._changes.version
            pause = self._publish()
            await first_of(clock, pause, self._changes.changed(version))
            self.heard_at = clock.now()
            await clock.sleep(self._means.timing.settle)

    def _publish(self) -> float | None:
        """Publish what is known; gives the seconds after which to look again at the latest."""
        now = self._means.clock.now()
        found = {watch.name: watch.catalog(now) for watch in self.services}
        lacking = [watch for watch in self.services if found[watch.name] is None]
        patient_until = self._patience(now, lacking)
        waits = self.catalog.value is None and now < patient_until
        if all(found.values()) or (any(found.values()) and not waits):
            services = (found[watch.name] or watch.unsettled() for watch in self.services)
            self.catalog.set(Catalog(tuple(services), self._zone or ""))
            kept = {watch.name: each for watch in self.services if (each := watch.kept())}
            self.state.set(CachedState(tuple(found), kept, self._zone))
        deadlines = [at for watch in self.services for at in watch.deadlines(now)]
        if waits:
            deadlines.append(patient_until)
        return min((at - now for at in deadlines), default=None)

    def _patience(self, now: float, lacking: Sequence[ServiceWatch]) -> float:
        """Until when (monotonic seconds) the first catalog waits for services that are lacking.

        A watch that failed when the first answer came may ask again only after the longest pause. A
        refusal is an answer.
        """
        if self._first is None and any(watch.heard for watch in self.services):
            self._first = now
        first, timing = now if self._first is None else self._first, self._means.timing
        if all(watch.refused for watch in lacking):
            return first + timing.refused
        return first + timing.pace.longest_pause + timing.together

    async def _find_zone(self) -> None:
        """Learn our own zone once, from our own entry."""
        clock, consul = self._means.clock, self._means.consul
        for look in count():
            try:
                entries = (await consul.health_service(self._means.witness)).value
            except SidecarError:
                entries = ()  # the watches tell of it
            own = next((entry for entry in entries if entry.id == self._own), None)
            if own is not None:
                self._zone = zone_of_node(own)
                self._news()
                return
            await clock.sleep(clock.jitter(_SOON if look < _SOONS else _RETRY, _JITTER))
