"""ADS as Envoys see it: each stream is told the newest snapshot when it has dealt with the last."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import grpc
from envoy.service.discovery.v3 import discovery_pb2

from sidecar.runtime.clock import Clock
from sidecar.runtime.token_bucket import TokenBucket
from sidecar.xds.ads.ads_stream import AdsStream, DeltaStream, SotwStream
from sidecar.xds.ads.encoder import Encoder
from sidecar.xds.ads.subscription import Nacked, Outcome, Reply
from sidecar.xds.ads.type_names import short
from sidecar.xds.envoys.connections import Envoys, EnvoyStream
from sidecar.xds.envoys.convergence import Convergence
from sidecar.xds.metrics import ControlPlaneMetrics
from sidecar.xds.publication import Publication

_NAME = "envoy.service.discovery.v3.AggregatedDiscoveryService"
# Newcomers a second, and at once. One costs a few milliseconds until it has everything. A hundred
# Envoys are back within a second, and those that are connected wait for a burst at most.
_RATE, _BURST = 100.0, 10.0
# Turns of the event loop that a newcomer leaves to those who are waiting for news.
_TURNS = 20

Encode = Callable[[Reply], bytes]


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


class AdmissionGate:
    """Takes streams on one after the other, no faster than a bucket allows.

    A stream that ends while waiting has used nothing up.
    """

    def __init__(self, clock: Clock, behind: Callable[[], bool]) -> None:
        """`behind` tells whether somebody who is connected has not been told the newest."""
        self.waiting = 0
        self._clock = clock
        self._behind = behind
        self._turn = asyncio.Lock()  # first come, first served
        self._bucket = TokenBucket(_RATE, _BURST, level=_BURST, at=clock.now())

    async def enter(self) -> None:
        """Return when the stream may begin."""
        self.waiting += 1
        try:
            async with self._turn:
                while pause := self._bucket.pause(self._clock.now()):
                    await self._clock.sleep(pause)
                for _ in range(_TURNS):
                    if not self._behind():
                        break
                    await asyncio.sleep(0)
                self._bucket = self._bucket.take(self._clock.now())
        finally:
            self.waiting -= 1


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
        self.wire = Encoder()
        self.door = AdmissionGate(publication.clock, self._somebody_is_behind)
        self._publication = publication
        self._envoys = envoys
        self._metrics = metrics
        self._listener = listener
        self._closing = closing
        self._convergence = Convergence(metrics.convergence.observe)

    def handler(self) -> Any:
        """The service for a gRPC server. Replies are serialised here, not by gRPC."""

        def method(conversation: type[AdsStream], request: Any, encode: Encode) -> Any:
            async def serve(requests: Any, context: Any) -> AsyncIterator[bytes]:
                async for message in self._serve(conversation(), requests, encode):
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
                    self.wire.state_of_the_world,
                ),
                "DeltaAggregatedResources": method(
                    DeltaStream, discovery_pb2.DeltaDiscoveryRequest, self.wire.delta
                ),
            },
        )

    async def _serve(
        self, conversation: AdsStream, requests: Any, encode: Encode
    ) -> AsyncIterator[bytes]:
        await self.door.enter()
        stream = EnvoyStream(conversation, since=self._publication.clock.now())
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
                reader.result()  # a fault of ours ends the stream with an error
        finally:
            for task in (reader, waker, closer):
                task.cancel()
            self._forget(stream)

    async def _read(self, stream: EnvoyStream, requests: Any) -> None:
        try:
            async for request in requests:
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

    async def _close(self, stream: EnvoyStream) -> None:
        await self._closing.wait()
        stream.ended = True
        stream.wake.set()

    async def _wake(self, stream: EnvoyStream) -> None:
        async for _ in self._publication.snapshot:
            stream.wake.set()

    def _somebody_is_behind(self) -> bool:
        newest = self._publication.snapshot.version
        return any(stream.told != newest for stream in self._envoys.streams)

    def _due(self, stream: EnvoyStream) -> list[Reply]:
        snapshot = self._publication.snapshot.value
        stream.told = self._publication.snapshot.version
        replies = list(stream.conversation.offers(snapshot)) if snapshot else []
        for reply in replies:
            self._metrics.pushes.labels(short(reply.type_url)).inc()
            self._convergence.sent(reply, self._publication.changed_at)
        stream.outstanding += replies
        self._settle(stream)
        if snapshot:
            stream.follow(snapshot, self._publication.changed_at)
        return replies

    def _note(self, stream: EnvoyStream, outcome: Outcome) -> None:
        if outcome is None:
            return
        clock = self._publication.clock
        stream.note(outcome, clock.now(), clock.wall())
        if isinstance(outcome, Nacked):
            self._metrics.refusals.labels(short(outcome.reply.type_url)).inc()
            self._listener.refused(stream.node, outcome.reply, outcome.reason)
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
