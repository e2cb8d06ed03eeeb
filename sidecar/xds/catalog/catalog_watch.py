"""Combines the watches of all services into one `Catalog`.

Acts: asyncio.
"""

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

# Seconds between looks for our own entry, which is registered while we start.
_SOON, _RETRY = 0.5, 5.0
_SOONS = 20  # looks at the shorter interval
_JITTER = 0.2


class CatalogWatch:
    """All services, combined.

    `catalog` is None until one of them is known, and `state` is what to restore after a restart. A
    service is unsettled until its watches were answered. The first catalog waits for all of them,
    from the first answer for as long as the longest pause after a failure, since an Envoy may know
    their clusters from our predecessor; but only briefly for one that Consul does not let us read.
    """

    def __init__(
        self,
        services: tuple[str, ...],
        context: WatchContext,
        cached: CachedState | None = None,
        zone: str | None = None,
        own_id: str = "",
    ) -> None:
        """Without a `zone`, it is that of the node on which `own_id`, our own instance, runs.

        Until its entry is seen, the cached zone counts.
        """
        self.catalog: Latest[Catalog | None] = Latest(None)
        self.state: Latest[CachedState | None] = Latest(cached)
        # When (monotonic seconds) Consul sent the data for the next catalog.
        self.received_at = context.clock.now()
        self._changes: Latest[int] = Latest(0)
        before = cached.kept if cached else {}
        self.services = tuple(
            ServiceWatch(name, context, self._news, before.get(name)) for name in services
        )
        self._context = context
        self._zone_is_set = zone is not None
        self._zone = cached.zone if zone is None and cached else zone
        self._own_id = own_id
        # When (monotonic seconds) there was first something to publish, or None.
        self._first = context.clock.now() if before else None

    async def run(self) -> None:
        """Watch and publish until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._combine())
            for watch in self.services:
                tasks.create_task(watch.run())
            if not self._zone_is_set:
                tasks.create_task(self._find_zone())

    def _news(self) -> None:
        self._changes.set(self._changes.value + 1)

    async def _combine(self) -> None:
        clock = self._context.clock
        while True:
            version = self._changes.version
            pause = self._publish()
            await first_of(clock, pause, self._changes.changed(version))
            self.received_at = clock.now()
            await clock.sleep(self._context.timing.settle)

    def _publish(self) -> float | None:
        """Publish what is known; returns the seconds until the next look at the latest."""
        now = self._context.clock.now()
        found = {watch.name: watch.catalog(now) for watch in self.services}
        lacking = [watch for watch in self.services if found[watch.name] is None]
        patient_until = self._patience(now, lacking)
        waits = self.catalog.value is None and now < patient_until
        if all(found.values()) or (any(found.values()) and not waits):
            services = (found[watch.name] or watch.unsettled() for watch in self.services)
            self.catalog.set(Catalog(tuple(services), self._zone or ""))
            cached = {watch.name: each for watch in self.services if (each := watch.cached())}
            self.state.set(CachedState(tuple(found), cached, self._zone))
        deadlines = [at for watch in self.services for at in watch.deadlines(now)]
        if waits:
            deadlines.append(patient_until)
        return min((at - now for at in deadlines), default=None)

    def _patience(self, now: float, lacking: Sequence[ServiceWatch]) -> float:
        """Until when (monotonic seconds) the first catalog waits for the services it lacks.

        A watch that failed before the first answer may retry only after the longest pause. A
        refusal is an answer.
        """
        if self._first is None and any(watch.answered for watch in self.services):
            self._first = now
        first, timing = now if self._first is None else self._first, self._context.timing
        if all(watch.refused for watch in lacking):
            return first + timing.refused
        return first + timing.pace.longest_pause + timing.together

    async def _find_zone(self) -> None:
        """Learn our own zone once, from our own entry."""
        clock, consul = self._context.clock, self._context.consul
        for look in count():
            try:
                entries = (await consul.health_service(self._context.witness)).value
            except SidecarError:
                entries = ()  # the watches report it
            own_id = next((entry for entry in entries if entry.id == self._own_id), None)
            if own_id is not None:
                self._zone = zone_of_node(own_id)
                self._news()
                return
            await clock.sleep(clock.jitter(_SOON if look < _SOONS else _RETRY, _JITTER))
