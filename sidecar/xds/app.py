"""Where the objects of `triton-sidecar xds` meet: start order, loops, stop order."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import structlog

from sidecar.consul.client import Consul
from sidecar.lifecycle import Lifecycle, Step, Tasks, cancel_all, run_until_stopped
from sidecar.runtime.clock import Clock, SystemClock
from sidecar.runtime.errors import ConfigError
from sidecar.runtime.threads import in_daemon_thread
from sidecar.settings import XdsSettings, changes
from sidecar.telemetry import logs, metrics
from sidecar.xds.api.explain import RetainedState, believed
from sidecar.xds.catalog.cached_state import CachedState
from sidecar.xds.catalog.catalog_watch import CatalogWatch
from sidecar.xds.catalog.instance_watch import WatchContext
from sidecar.xds.catalog.state_file import StateFile
from sidecar.xds.envoys.envoy_stats import EnvoyCounters
from sidecar.xds.metrics import ControlPlaneMetrics
from sidecar.xds.observer import Observer
from sidecar.xds.publication import Publication
from sidecar.xds.releases.release_watch import ReleaseWatch
from sidecar.xds.self_registration import deregister, keep_registered, registration
from sidecar.xds.server import ControlPlaneServer

_DEREGISTER = 3.0  # seconds for a step of stopping that only talks to Consul
_STREAMS = 1.0  # seconds in which streams may end by themselves


async def serve(load: Callable[[], XdsSettings]) -> int:
    """Run the control plane until it is told to stop; gives the exit status.

    Args:
        load: reads the settings; called at the start and at each reload.

    Raises:
        ConfigError: the settings, or an address cannot be bound or dialled, or the token file
            cannot be read.
    """
    settings = load()
    logs.configure(settings.log.level, settings.log.format)
    log = structlog.get_logger().bind(control_plane=settings.xds.instance)
    measured = ControlPlaneMetrics()
    if address := settings.xds.metrics:
        metrics.serve(measured.registry, "xds.metrics", address)
    settings.consul.access.read_token()
    async with Consul(settings.consul.access) as consul:
        plane = ControlPlane(load, settings, consul, SystemClock(), measured, log)
        return await plane.run()


class ControlPlane:
    """Watches, snapshot and server, wired together through `Latest` cells."""

    def __init__(
        self,
        load: Callable[[], XdsSettings],
        settings: XdsSettings,
        consul: Consul,
        clock: Clock,
        metrics: ControlPlaneMetrics,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._load = load
        self._loaded = settings
        self._settings = settings.xds
        self._consul = consul
        self._clock = clock
        self._log = log
        observer = Observer(metrics, clock, log)
        services = tuple(dict.fromkeys(settings.xds.services))
        self._observer = observer
        self._disk = StateFile(settings.xds.state, clock, observer) if settings.xds.state else None
        kept = self._disk.read(services) if self._disk else None
        self._watch = CatalogWatch(
            services,
            WatchContext(consul, clock, observer, settings.xds.name),
            kept,
            settings.xds.zone,
            settings.xds.instance,
        )
        self._counters = EnvoyCounters(settings.envoy.admin, services, clock, log)
        self._releases = ReleaseWatch(
            self._watch.catalog,
            self._counters,
            consul,
            clock,
            observer,
            kept.rollbacks if kept else None,
        )
        self._publication = Publication(
            self._releases.published, settings.envoy.edge, clock, lambda: self._watch.heard_at
        )
        self._server = ControlPlaneServer(
            self._watch.catalog,
            self._publication,
            self._counters,
            metrics,
            observer,
            lambda service: next(
                (believed(each) for each in self._watch.services if each.name == service),
                RetainedState(),
            ),
            lambda: observer.status,
        )

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT, then stop gracefully; gives the exit status."""
        wished = self._wished()
        await self._server.start(self._settings.listen)
        self._log.info("listening", address=self._settings.listen)
        loops = {
            "watch": self._watch.run,
            "publish": self._publication.run,
            "empty clusters": lambda: self._server.envoys.empty_clusters(self._publication),
            "count": self._counters.run,
            "quarantine": self._server.quarantine.run,
            "releases": self._releases.run,
            "register": lambda: keep_registered(self._consul, wished, self._clock, self._log),
        }
        if (disk := self._disk) is not None:
            made_of = self._watch.state, self._releases.rollbacks
            loops["keep"] = lambda: disk.run(self._known, *made_of)
        life = Lifecycle(
            loops=loops,
            status=self._status,
            reload=self._reload,
            stop=self._stop,
        )
        return await run_until_stopped(life, self._clock, logs.LogHook(self._log))

    def _wished(self) -> dict[str, Any]:
        return registration(self._settings.plane)

    def _known(self) -> CachedState | None:
        """What a later life needs to know."""
        state = self._watch.state.value
        return state and replace(state, rollbacks=self._releases.rollbacks.value)

    def _status(self) -> str:
        said = self._observer.status
        return f"serving {', '.join(self._settings.services)}" + (f"; {said}" if said else "")

    async def _reload(self) -> str:
        """Nothing can change yet while it runs; the token is read anew with every request."""
        changed = changes(self._loaded, await in_daemon_thread(self._load, "settings"))
        if changed:
            raise ConfigError(f"{', '.join(sorted(changed))}: cannot change without a restart")
        return "nothing"

    def _stop(self, tasks: Tasks) -> Iterable[Step]:
        async def deregistered() -> None:
            await deregister(self._consul, self._wished())

        async def keep() -> None:
            if self._disk is not None:
                await self._disk.write(self._known())

        return [
            # The loops first: one of them would register it again.
            Step("end_loops", lambda: cancel_all(tasks), _STREAMS),
            Step("save_catalog", keep, _STREAMS),
            # Envoys keep what they have, and reconnect to the next process.
            Step("close_streams", lambda: self._server.stop(_STREAMS), 2 * _STREAMS),
            Step("deregister", deregistered, _DEREGISTER, skippable=True),
        ]
