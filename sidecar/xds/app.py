"""Wiring of `triton-sidecar xds`: creates its objects, and fixes the order of start and stop.

Acts: through what it imports or is given.
"""

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
from sidecar.xds.api.explain import RetainedState, retained_state
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

_DEREGISTER = 3.0  # seconds for a shutdown step that only talks to Consul
_STREAMS = 1.0  # seconds in which streams may end on their own


async def serve(load: Callable[[], XdsSettings]) -> int:
    """Run the control plane until SIGTERM or SIGINT; returns the exit status.

    Args:
        load: reads the settings; called at the start and at each reload.

    Raises:
        ConfigError: invalid settings, an address that cannot be bound or dialed, or a token file
            that cannot be read.
    """
    settings = load()
    logs.configure(settings.log.level, settings.log.format)
    log = structlog.get_logger().bind(control_plane=settings.xds.instance)
    control_plane_metrics = ControlPlaneMetrics()
    if address := settings.xds.metrics:
        metrics.serve(control_plane_metrics.registry, "xds.metrics", address)
    settings.consul.access.read_token()
    async with Consul(settings.consul.access) as consul:
        plane = ControlPlane(load, settings, consul, SystemClock(), control_plane_metrics, log)
        return await plane.run()


class ControlPlane:
    """Watches, snapshot and server, wired together through `Latest` cells."""

    def __init__(
        self,
        load: Callable[[], XdsSettings],
        settings: XdsSettings,
        consul: Consul,
        clock: Clock,
        control_plane_metrics: ControlPlaneMetrics,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._load = load
        self._loaded = settings
        self._settings = settings.xds
        self._consul = consul
        self._clock = clock
        self._log = log
        observer = Observer(control_plane_metrics, clock, log)
        services = tuple(dict.fromkeys(settings.xds.services))
        self._observer = observer
        self._state_file = (
            StateFile(settings.xds.state, clock, observer) if settings.xds.state else None
        )
        cached = self._state_file.read(services) if self._state_file else None
        self._watch = CatalogWatch(
            services,
            WatchContext(consul, clock, observer, settings.xds.name),
            cached,
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
            cached.rollbacks if cached else None,
        )
        self._publication = Publication(
            self._releases.published, settings.envoy.edge, clock, lambda: self._watch.received_at
        )
        self._server = ControlPlaneServer(
            self._watch.catalog,
            self._publication,
            self._counters,
            control_plane_metrics,
            observer,
            lambda service: next(
                (retained_state(each) for each in self._watch.services if each.name == service),
                RetainedState(),
            ),
            lambda: observer.status,
        )

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT, then stop gracefully; returns the exit status."""
        entry = self._entry()
        await self._server.start(self._settings.listen)
        self._log.info("listening", address=self._settings.listen)
        loops = {
            "watch": self._watch.run,
            "publish": self._publication.run,
            "empty clusters": lambda: self._server.envoys.empty_clusters(self._publication),
            "count": self._counters.run,
            "quarantine": self._server.quarantine.run,
            "releases": self._releases.run,
            "register": lambda: keep_registered(self._consul, entry, self._clock, self._log),
        }
        if (state_file := self._state_file) is not None:
            cells = self._watch.state, self._releases.rollbacks
            loops["keep"] = lambda: state_file.run(self._cached_state, *cells)
        life = Lifecycle(
            loops=loops,
            status=self._status,
            reload=self._reload,
            stop=self._stop,
        )
        return await run_until_stopped(life, self._clock, logs.LogHook(self._log))

    def _entry(self) -> dict[str, Any]:
        return registration(self._settings.plane)

    def _cached_state(self) -> CachedState | None:
        """The state to restore after a restart."""
        state = self._watch.state.value
        return state and replace(state, rollbacks=self._releases.rollbacks.value)

    def _status(self) -> str:
        status = self._observer.status
        return f"serving {', '.join(self._settings.services)}" + (f"; {status}" if status else "")

    async def _reload(self) -> str:
        """Nothing can change at run time yet; the token is reread with every request anyway."""
        changed = changes(self._loaded, await in_daemon_thread(self._load, "settings"))
        if changed:
            raise ConfigError(f"{', '.join(sorted(changed))}: cannot change without a restart")
        return "nothing"

    def _stop(self, tasks: Tasks) -> Iterable[Step]:
        async def deregistered() -> None:
            await deregister(self._consul, self._entry())

        async def keep() -> None:
            if self._state_file is not None:
                await self._state_file.write(self._cached_state())

        return [
            # The loops first: one of them would register the entry again.
            Step("end_loops", lambda: cancel_all(tasks), _STREAMS),
            Step("save_catalog", keep, _STREAMS),
            # Envoys keep their configuration, and reconnect to the next process.
            Step("close_streams", lambda: self._server.stop(_STREAMS), 2 * _STREAMS),
            Step("deregister", deregistered, _DEREGISTER, skippable=True),
        ]
