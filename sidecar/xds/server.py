"""The control plane's gRPC server, and what it says to Envoy (ADS, LRS)."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol, TypeVar

import grpc.aio
from envoy.service.discovery.v3 import ads_pb2_grpc
from envoy.service.load_stats.v3 import lrs_pb2, lrs_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar.errors import ConfigError
from sidecar.latest import Latest
from sidecar.v1 import control_plane_pb2_grpc
from sidecar.xds.admin import EnvoyCounters
from sidecar.xds.catalog import Catalog
from sidecar.xds.closing import until
from sidecar.xds.conversation import Conversation, DeltaConversation, StateOfTheWorldConversation
from sidecar.xds.envoys import Envoys, EnvoyStream
from sidecar.xds.inquiries import InquiryService
from sidecar.xds.load import read_report
from sidecar.xds.publication import Convergence, Publication
from sidecar.xds.subscription import Acknowledged, Outcome, Refused, Reply
from sidecar.xds.telemetry import ControlPlaneMetrics

T = TypeVar("T")

# Seconds between Envoys' load reports. A drain waits for one report after the acknowledgement,
# and notices its end at most this much late.
LOAD_INTERVAL = 0.5

_OPTIONS = (
    # Two control planes on one port would share Envoys at random.
    ("grpc.so_reuseport", 0),
    # An Envoy that vanished must not count as connected; one that pings us is welcome.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
)


class ServerListener(Protocol):
    """Told what Envoys do, for logs."""

    def connected(self, node: str) -> None:
        """An Envoy opened its ADS stream."""

    def shared(self, node: str) -> None:
        """It did so although there is a stream of that node."""

    def disconnected(self, node: str) -> None:
        """Its stream ended."""

    def refused(self, node: str, reply: Reply, reason: str) -> None:
        """It refused a reply and keeps its last good configuration."""


class DiscoveryService(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    """ADS: each stream is told the newest snapshot as soon as it has dealt with the last one."""

    def __init__(
        self,
        publication: Publication,
        envoys: Envoys,
        metrics: ControlPlaneMetrics,
        listener: ServerListener,
        closing: asyncio.Event,
    ) -> None:
        self._publication = publication
        self._envoys = envoys
        self._metrics = metrics
        self._listener = listener
        self._closing = closing
        self._convergence = Convergence(publication.clock, metrics.convergence.observe)

    async def StreamAggregatedResources(
        self, request_iterator: Any, context: Any
    ) -> AsyncIterator[Any]:
        """State of the world."""
        async for message in self._serve(StateOfTheWorldConversation(), request_iterator):
            yield message

    async def DeltaAggregatedResources(
        self, request_iterator: Any, context: Any
    ) -> AsyncIterator[Any]:
        """Incremental."""
        async for message in self._serve(DeltaConversation(), request_iterator):
            yield message

    async def _serve(self, conversation: Conversation, requests: Any) -> AsyncIterator[Any]:
        stream = EnvoyStream(conversation)
        reader = asyncio.create_task(self._read(stream, requests))
        waker = asyncio.create_task(self._wake(stream))
        self._envoys.add(stream)
        self._metrics.envoys.set(len(self._envoys.streams))
        try:
            while not stream.ended:
                stream.wake.clear()
                for reply in self._due(stream):
                    yield conversation.message(reply)
                await stream.wake.wait()
            if reader.done():
                reader.result()  # a fault of ours ends the stream with an error
        finally:
            reader.cancel()
            waker.cancel()
            self._forget(stream)

    async def _read(self, stream: EnvoyStream, requests: Any) -> None:
        try:
            async for request in until(self._closing, requests):
                if not stream.node and request.node.id:
                    alone = self._envoys.name(stream, request.node.id)
                    self._listener.connected(stream.node)
                    if not alone:
                        self._listener.shared(stream.node)
                self._note(stream, stream.conversation.receive(request))
                stream.wake.set()
        finally:
            stream.ended = True
            stream.wake.set()

    async def _wake(self, stream: EnvoyStream) -> None:
        async for _ in self._publication.snapshot:
            stream.wake.set()

    def _due(self, stream: EnvoyStream) -> list[Reply]:
        snapshot = self._publication.snapshot.value
        replies = list(stream.conversation.offers(snapshot)) if snapshot else []
        for reply in replies:
            self._metrics.pushes.labels(_short(reply.type_url)).inc()
            self._convergence.sent(reply, self._publication.changed_at)
        stream.outstanding += replies
        return replies

    def _note(self, stream: EnvoyStream, outcome: Outcome) -> None:
        if outcome is None:
            return
        reply = outcome.reply
        stream.outstanding.remove(reply)
        self._convergence.answered(reply, confirmed=isinstance(outcome, Acknowledged))
        if isinstance(outcome, Refused):
            self._metrics.refusals.labels(_short(reply.type_url)).inc()
            self._listener.refused(stream.node, reply, outcome.reason)
        self._envoys.changed()

    def _forget(self, stream: EnvoyStream) -> None:
        for reply in stream.outstanding:
            self._convergence.answered(reply, confirmed=False)
        self._envoys.remove(stream)
        self._metrics.envoys.set(len(self._envoys.streams))
        if stream.node:
            self._listener.disconnected(stream.node)


class LoadService(lrs_pb2_grpc.LoadReportingServiceServicer):
    """LRS: Envoys report how many requests they have in flight on each endpoint."""

    def __init__(self, publication: Publication, envoys: Envoys, closing: asyncio.Event) -> None:
        self._publication = publication
        self._envoys = envoys
        self._closing = closing

    async def StreamLoadStats(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        """Ask for all services, per endpoint; then keep the newest report."""
        node, asked = "", False
        async for request in until(self._closing, request_iterator):
            node = node or request.node.id
            self._envoys.report(node, read_report(request, self._publication.clock.now()))
            if not asked:
                asked = True
                yield await self._question()

    async def _question(self) -> Any:
        snapshot = self._publication.snapshot.value
        version = self._publication.snapshot.version
        while snapshot is None:
            version, snapshot = await self._publication.snapshot.changed(version)
        interval = Duration()
        interval.FromMilliseconds(round(LOAD_INTERVAL * 1000))
        return lrs_pb2.LoadStatsResponse(
            clusters=snapshot.services,
            load_reporting_interval=interval,
            report_endpoint_granularity=True,
        )


class LivenessService(health_pb2_grpc.HealthServicer):
    """grpc.health.v1 for Consul's check: whether the event loop still turns."""

    async def Check(self, request: Any, context: Any) -> Any:
        """SERVING."""
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
    ) -> None:
        self._closing = asyncio.Event()
        self._server = grpc.aio.server(options=_OPTIONS)
        envoys = self.envoys = Envoys(publication.clock)
        closing, server = self._closing, self._server
        ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(
            DiscoveryService(publication, envoys, metrics, listener, closing), server
        )
        lrs_pb2_grpc.add_LoadReportingServiceServicer_to_server(
            LoadService(publication, envoys, closing), server
        )
        control_plane_pb2_grpc.add_ControlPlaneServiceServicer_to_server(  # type: ignore[no-untyped-call]
            InquiryService(catalog, publication, envoys, counters, closing), server
        )
        health_pb2_grpc.add_HealthServicer_to_server(LivenessService(), server)

    async def start(self, address: str) -> int:
        """Listen on `host:port`; gives the port.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise ConfigError(f"xds.listen: cannot listen on {address}: {error}") from error
        await self._server.start()
        return int(port)

    async def stop(self, grace: float) -> None:
        """Stop listening and end all streams; Envoys keep what they have.

        Streams that have not ended after `grace` seconds are cut.
        """
        self._closing.set()
        await self._server.stop(grace)


def _short(type_url: str) -> str:
    """The last part of a type's name: `ClusterLoadAssignment`."""
    return type_url.rpartition(".")[2]
