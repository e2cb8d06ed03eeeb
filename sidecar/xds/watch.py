"""The watching loops: blocking queries on Consul, combined into one `Catalog`."""

import asyncio

from sidecar.errors import SidecarError
from sidecar.latest import Latest, first_of
from sidecar.xds.catalog import Catalog, ServiceCatalog
from sidecar.xds.evidence import zone_of_node
from sidecar.xds.instances import Means
from sidecar.xds.last_good import State
from sidecar.xds.service_watch import ServiceWatch

_RETRY = 5.0  # seconds until the next look for the own entry
_JITTER = 0.2


class CatalogWatch:
    """All services, combined.

    `catalog` is None until something is known of one of them, and `state` is what a later life
    needs to know. A service is unsettled until its watches have been answered. The first catalog
    waits a moment for all of them, since an Envoy may know their clusters from our predecessor; but
    one that Consul does not let us read must not silence the others for long.
    """

    def __init__(
        self,
        services: tuple[str, ...],
        means: Means,
        kept: State | None = None,
        zone: str | None = None,
        own: str = "",
    ) -> None:
        """Without a `zone` that of the node counts on which `own`, our own instance, is."""
        self.catalog: Latest[Catalog | None] = Latest(None)
        self.state: Latest[State | None] = Latest(kept)
        # When (monotonic seconds) the news came that the next catalog will be made of.
        self.heard_at = means.clock.now()
        self._changes: Latest[int] = Latest(0)
        before = kept.kept if kept else {}
        self.services = tuple(
            ServiceWatch(name, means, self._news, before.get(name)) for name in services
        )
        self._means = means
        self._zone = zone
        self._own = own
        self._patient_until = 0.0

    async def run(self) -> None:
        """Watch and publish for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._combine())
            for watch in self.services:
                tasks.create_task(watch.run())
            if self._zone is None:
                tasks.create_task(self._find_zone())

    def _news(self) -> None:
        self._changes.set(self._changes.value + 1)

    async def _combine(self) -> None:
        clock = self._means.clock
        self._patient_until = clock.now() + self._means.timing.together
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
        waits = self.catalog.value is None and now < self._patient_until
        if all(found.values()) or (any(found.values()) and not waits):
            services = (each or ServiceCatalog(name, settled=False) for name, each in found.items())
            self.catalog.set(Catalog(tuple(services), self._zone or ""))
            kept = {watch.name: each for watch in self.services if (each := watch.kept())}
            self.state.set(State(tuple(found), kept))
        deadlines = [at for watch in self.services for at in watch.deadlines(now)]
        if waits:
            deadlines.append(self._patient_until)
        return min((at - now for at in deadlines), default=None)

    async def _find_zone(self) -> None:
        """Learn our own zone once, from our own entry."""
        clock, consul = self._means.clock, self._means.consul
        while True:
            try:
                entries = (await consul.health_service(self._means.witness)).value
            except SidecarError:
                entries = ()  # the watches tell of it
            own = next((entry for entry in entries if entry.id == self._own), None)
            if own is not None:
                self._zone = zone_of_node(own)
                self._news()
                return
            await clock.sleep(clock.jitter(_RETRY, _JITTER))
