"""The control plane's gRPC server and its services.

Acts: asyncio, grpc.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc.aio
from envoy.service.load_stats.v3 import lrs_pb2, lrs_pb2_grpc
from envoy.service.status.v3 import csds_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar.runtime import listening
from sidecar.runtime.clock import Clock
from sidecar.runtime.latest import Latest
from sidecar.v1 import control_plane_pb2_grpc
from sidecar.xds.ads.shutdown import until
from sidecar.xds.ads.type_names import short
from sidecar.xds.api.control_plane_service import ControlPlaneService, ControlPlaneView
from sidecar.xds.api.explain import RetainedState
from sidecar.xds.catalog.catalog import Catalog
from sidecar.xds.config.snapshot import ORDER
from sidecar.xds.envoys.ads_service import AdsService, ServerListener
from sidecar.xds.envoys.csds import ClientStatusService
from sidecar.xds.envoys.envoy_stats import EnvoyCounters
from sidecar.xds.envoys.envoy_streams import Envoys
from sidecar.xds.envoys.load_report import read_report
from sidecar.xds.metrics import ControlPlaneMetrics
from sidecar.xds.publication import Publication
from sidecar.xds.quarantine.quarantine import Quarantine

# Seconds between Envoys' load reports. A drain waits for one report after the acknowledgement,
# and notices its end at most this late.
LOAD_INTERVAL = 0.5

_OPTIONS = (
    # Two control planes on one port would share Envoys at random.
    ("grpc.so_reuseport", 0),
    # An Envoy that vanished must not count as connected; one that pings us is welcome.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
    # Requests to be tried arrive whole, of up to `limits.retry_body_bytes`.
    ("grpc.max_receive_message_length", -1),
)


class LoadService(lrs_pb2_grpc.LoadReportingServiceServicer):
    """LRS: Envoys report how many requests they have in flight on each endpoint."""

    def __init__(self, clock: Clock, envoys: Envoys, closing: asyncio.Event) -> None:
        self._clock = clock
        self._envoys = envoys
        self._closing = closing

    async def StreamLoadStats(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        """Request reports on all clusters, per endpoint; then keep the newest one."""
        node, asked = "", False
        async for request in until(self._closing, request_iterator):
            node = node or request.node.id
            self._envoys.report(node, read_report(request, self._clock.now()))
            if not asked:
                asked = True
                yield _load_stats_response()


class LivenessService(health_pb2_grpc.HealthServicer):
    """grpc.health.v1 for Consul's check: shows that the event loop runs."""

    async def Check(self, request: Any, context: Any) -> Any:
        """Always SERVING."""
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


class ControlPlaneServer:
    """The gRPC server with all services."""

    def __init__(
        self,
        catalog: Latest[Catalog | None],
        publication: Publication,
        counters: EnvoyCounters,
        metrics: ControlPlaneMetrics,
        listener: ServerListener,
        retained: Callable[[str], RetainedState] = lambda service: RetainedState(),
        status: Callable[[], str] = str,
    ) -> None:
        """`retained` returns a service's retained state, `status` the catalog's problems."""
        self._closing = asyncio.Event()
        self._server = grpc.aio.server(options=_OPTIONS)
        self._publication = publication
        self.envoys = Envoys(publication.clock)
        self.quarantine = Quarantine(catalog, publication, metrics)
        closing, server = self._closing, self._server
        ads = AdsService(publication, self.envoys, metrics, listener, closing)
        view = ControlPlaneView(
            catalog,
            publication,
            self.envoys,
            counters,
            retained,
            lambda: ads.gate.waiting,
            status,
        )
        metrics.watch(
            refusing=lambda: self.envoys.rejecting,
            waiting=lambda: ads.gate.waiting,
            resources={short(type_url): self._count(type_url) for type_url in ORDER},
        )
        server.add_generic_rpc_handlers((ads.handler(),))
        if publication.edge.quarantine:
            server.add_generic_rpc_handlers((self.quarantine.handler(),))
        lrs_pb2_grpc.add_LoadReportingServiceServicer_to_server(
            LoadService(publication.clock, self.envoys, closing), server
        )
        control_plane_pb2_grpc.add_ControlPlaneServiceServicer_to_server(  # type: ignore[no-untyped-call]
            ControlPlaneService(view, closing), server
        )
        csds_pb2_grpc.add_ClientStatusDiscoveryServiceServicer_to_server(
            ClientStatusService(view.clients, closing), server
        )
        health_pb2_grpc.add_HealthServicer_to_server(LivenessService(), server)

    async def start(self, address: str) -> int:
        """Listen on `host:port`; returns the port.

        Raises:
            ConfigError: the address cannot be bound.
        """
        port = listening.add_port(self._server, "xds.listen", address)
        await self._server.start()
        return port

    async def stop(self, grace: float) -> None:
        """Stop listening and end all streams; Envoys keep their configuration.

        Streams that have not ended after `grace` seconds are cut.
        """
        self._closing.set()
        await self._server.stop(grace)

    def _count(self, type_url: str) -> Callable[[], int]:
        """A function that returns how many resources of a type are published."""

        def count() -> int:
            snapshot = self._publication.snapshot.value
            return len(snapshot.of(type_url)) if snapshot else 0

        return count


def _load_stats_response() -> Any:
    interval = Duration()
    interval.FromMilliseconds(round(LOAD_INTERVAL * 1000))
    return lrs_pb2.LoadStatsResponse(
        send_all_clusters=True, load_reporting_interval=interval, report_endpoint_granularity=True
    )
