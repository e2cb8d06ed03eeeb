"""ADS as Envoys see it: each stream gets the newest snapshot once it has answered the last one.

Acts: asyncio, grpc.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import grpc
from envoy.service.discovery.v3 import discovery_pb2

from sidecar.xds.ads.ads_stream import AdsStream, DeltaStream, SotwStream
from sidecar.xds.ads.encoder import Encoder
from sidecar.xds.ads.subscription import Nacked, Outcome, Reply
from sidecar.xds.ads.type_names import short
from sidecar.xds.envoys.admission_gate import AdmissionGate
from sidecar.xds.envoys.convergence import Convergence
from sidecar.xds.envoys.envoy_streams import Envoys, EnvoyStream
from sidecar.xds.metrics import ControlPlaneMetrics
from sidecar.xds.publication import Publication

_NAME = "envoy.service.discovery.v3.AggregatedDiscoveryService"

Encode = Callable[[Reply], bytes]


class ServerListener(Protocol):
    """Gets events of Envoys' streams, for logs."""

    def connected(self, node: str) -> None:
        """An Envoy opened its ADS stream."""

    def shared(self, node: str) -> None:
        """It did so although another stream has the same node id."""

    def disconnected(self, node: str) -> None:
        """Its stream ended."""

    def nacked(self, node: str, reply: Reply, reason: str) -> None:
        """It rejected a response and keeps its last good configuration."""


class AdsService:
    """envoy.service.discovery.v3.AggregatedDiscoveryService."""

    def __init__(
        self,
        publication: Publication,
        envoys: Envoys,
        metrics: ControlPlaneMetrics,
        listener: ServerListener,
        closing: asyncio.Event,
    ) -> None:
        self.encoder = Encoder()
        self.gate = AdmissionGate(publication.clock, self._any_behind)
        self._publication = publication
        self._envoys = envoys
        self._metrics = metrics
        self._listener = listener
        self._closing = closing
        self._convergence = Convergence(metrics.convergence.observe)

    def handler(self) -> Any:
        """The service for a gRPC server. Responses are serialised here, not by gRPC."""

        def method(ads: type[AdsStream], request: Any, encode: Encode) -> Any:
            async def serve(requests: Any, context: Any) -> AsyncIterator[bytes]:
                async for message in self._serve(ads(), requests, encode):
                    yield message

            return grpc.stream_stream_rpc_method_handler(
                serve, request_deserializer=request.FromString
            )

        return grpc.method_handlers_generic_handler(
            _NAME,
            {
                "StreamAggregatedResources": method(
                    SotwStream,
                    discovery_pb2.DiscoveryRequest,
                    self.encoder.sotw,
                ),
                "DeltaAggregatedResources": method(
                    DeltaStream, discovery_pb2.DeltaDiscoveryRequest, self.encoder.delta
                ),
            },
        )

    async def _serve(self, ads: AdsStream, requests: Any, encode: Encode) -> AsyncIterator[bytes]:
        await self.gate.enter()
        stream = EnvoyStream(ads, since=self._publication.clock.now())
        reader = asyncio.create_task(self._read(stream, requests))
        waker = asyncio.create_task(self._wake(stream))
        closer = asyncio.create_task(self._close(stream))
        self._envoys.add(stream)
        self._metrics.envoys.set(len(self._envoys.streams))
        try:
            while not stream.ended:
                stream.wake.clear()
                for reply in self._due(stream):
                    yield encode(reply)
                await stream.wake.wait()
            if reader.done():
                reader.result()  # our own bug ends the stream with an error
        finally:
            for task in (reader, waker, closer):
                task.cancel()
            self._forget(stream)

    async def _read(self, stream: EnvoyStream, requests: Any) -> None:
        try:
            async for request in requests:
                if not stream.node and request.node.id:
                    alone = self._envoys.identify(stream, request.node.id)
                    self._listener.connected(stream.node)
                    if not alone:
                        self._listener.shared(stream.node)
                self._record(stream, stream.ads.receive(request))
                stream.wake.set()
        finally:
            stream.ended = True
            stream.wake.set()

    async def _close(self, stream: EnvoyStream) -> None:
        await self._closing.wait()
        stream.ended = True
        stream.wake.set()

    async def _wake(self, stream: EnvoyStream) -> None:
        async for _ in self._publication.snapshot:
            stream.wake.set()

    def _any_behind(self) -> bool:
        newest = self._publication.snapshot.version
        return any(stream.offered != newest for stream in self._envoys.streams)

    def _due(self, stream: EnvoyStream) -> list[Reply]:
        snapshot = self._publication.snapshot.value
        stream.offered = self._publication.snapshot.version
        replies = list(stream.ads.offers(snapshot)) if snapshot else []
        for reply in replies:
            self._metrics.pushes.labels(short(reply.type_url)).inc()
            self._convergence.sent(reply, self._publication.changed_at)
        stream.outstanding += replies
        self._settle(stream)
        if snapshot:
            stream.update_lag(snapshot, self._publication.changed_at)
        return replies

    def _record(self, stream: EnvoyStream, outcome: Outcome) -> None:
        if outcome is None:
            return
        clock = self._publication.clock
        stream.record(outcome, clock.now(), clock.wall())
        if isinstance(outcome, Nacked):
            self._metrics.refusals.labels(short(outcome.reply.type_url)).inc()
            self._listener.nacked(stream.node, outcome.reply, outcome.reason)
        self._envoys.changed()

    def _settle(self, stream: EnvoyStream) -> None:
        for reply, confirmed_at in stream.answered:
            self._convergence.answered(reply, confirmed_at)
        stream.answered.clear()

    def _forget(self, stream: EnvoyStream) -> None:
        stream.answered += [(reply, None) for reply in stream.outstanding]
        self._settle(stream)
        self._envoys.remove(stream)
        self._metrics.envoys.set(len(self._envoys.streams))
        if stream.node:
            self._listener.disconnected(stream.node)
