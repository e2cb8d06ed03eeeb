"""Where the objects of `triton-sidecar xds` meet: start order, loops, stop order."""

import asyncio
import os

import sdnotify
import structlog

from sidecar.clock import Clock, SystemClock
from sidecar.consul import Consul
from sidecar.errors import ConfigError, SidecarError
from sidecar.settings import XdsSettings, split_address
from sidecar.shutdown import Step, StopSignals, perform
from sidecar.telemetry import logs
from sidecar.telemetry.metrics import serve as serve_metrics
from sidecar.xds.policy import TrafficPolicy
from sidecar.xds.publication import Publication
from sidecar.xds.registration import keep_registered, registration
from sidecar.xds.server import ControlPlaneServer
from sidecar.xds.telemetry import ControlPlaneMetrics, Observer
from sidecar.xds.watch import CatalogWatch

_DEREGISTER = 3.0  # seconds for a step of stopping that only talks to Consul
_STREAMS = 1.0  # seconds in which streams may end by themselves
_WATCHDOG = 5.0  # seconds between signs of life to systemd


async def serve(settings: XdsSettings) -> int:
    """Run the control plane until it is told to stop; gives the exit status.

    Raises:
        ConfigError: an address cannot be bound or dialled, or the token file cannot be read.
    """
    logs.configure(settings.log)
    log = structlog.get_logger().bind(control_plane=settings.xds.instance)
    metrics = ControlPlaneMetrics()
    if address := settings.xds.metrics:
        _serve_metrics(metrics, address)
    settings.consul.read_token()
    async with Consul(settings.consul) as consul:
        plane = ControlPlane(settings, consul, SystemClock(), metrics, log)
        return await plane.run()


class ControlPlane:
    """Watches, snapshot and server, wired together through `Latest` cells."""

    def __init__(
        self,
        settings: XdsSettings,
        consul: Consul,
        clock: Clock,
        metrics: ControlPlaneMetrics,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._settings = settings.xds
        self._consul = consul
        self._clock = clock
        self._log = log
        observer = Observer(metrics, clock, log)
        services = tuple(dict.fromkeys(settings.xds.services))
        self._watch = CatalogWatch(services, settings.xds.name, consul, clock, observer)
        host, port = split_address(settings.envoy.listen)
        policy = TrafficPolicy(listen_host=host, listen_port=port)
        self._publication = Publication(self._watch.catalog, policy, clock)
        self._server = ControlPlaneServer(self._publication, metrics, observer)

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT, then stop in order; gives the exit status."""
        signals = StopSignals()
        wished = registration(self._settings, split_address(self._settings.listen)[1])
        await self._server.start(self._settings.listen)
        self._log.info("listening", address=self._settings.listen)
        _notify("READY=1")
        loops = [
            asyncio.create_task(loop, name=name)
            for name, loop in (
                ("watch", self._watch.run()),
                ("publish", self._publication.run()),
                ("register", keep_registered(self._consul, wished, self._clock, self._log)),
                ("watchdog", self._watchdog()),
            )
        ]
        stop = asyncio.create_task(signals.stop.wait(), name="stop")
        await asyncio.wait((stop, *loops), return_when=asyncio.FIRST_COMPLETED)
        ended = [loop for loop in loops if loop.done()]
        _notify("STOPPING=1")
        hook = logs.LogHook(self._log)
        await perform(self._stop_steps(loops), signals.skip, self._clock, hook)
        for loop in ended:
            loop.result()
            raise SidecarError(f"the loop {loop.get_name()!r} ended by itself")
        return 0

    def _stop_steps(self, loops: list[asyncio.Task[None]]) -> list[Step]:
        async def end_loops() -> None:
            for loop in loops:
                loop.cancel()
            await asyncio.wait(loops)

        async def deregister() -> None:
            await self._consul.deregister_service(self._settings.instance)

        return [
            # The loops first: one of them would register it again.
            Step("end the loops", end_loops, _STREAMS),
            # Envoys keep what they have, and come back to whoever listens next.
            Step("close the streams", lambda: self._server.stop(_STREAMS), 2 * _STREAMS),
            Step("deregister", deregister, _DEREGISTER, skippable=True),
        ]

    async def _watchdog(self) -> None:
        """Tell systemd that the event loop turns."""
        while True:
            _notify("WATCHDOG=1")
            await self._clock.sleep(_WATCHDOG)


def _notify(message: str) -> None:
    if "NOTIFY_SOCKET" in os.environ:
        sdnotify.SystemdNotifier().notify(message)


def _serve_metrics(metrics: ControlPlaneMetrics, address: str) -> None:
    try:
        serve_metrics(metrics.registry, address)
    except OSError as error:
        raise ConfigError(f"xds.metrics: cannot listen on {address}: {error}") from error
