"""Fake Tritons and their sidecars, whose answers a test sets."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Self

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2

from sidecar.xds.catalog.catalog import Instance
from tests.support.xds.wire import Wire

TRITON = "/inference.GRPCInferenceService/"
INFER, STREAM = TRITON + "ModelInfer", TRITON + "ModelStreamInfer"
UNLOAD = TRITON + "RepositoryModelUnload"
ANY = b""
UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class FakeTriton:
    """Answers with its name. `gate` delays streams; `hang` delays unary requests."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.gate = asyncio.Event()
        self.hang = False
        self.die_on_request = False
        # The status with which requests of this content fail; of any content, under `ANY`.
        self.fails: dict[bytes, grpc.StatusCode] = {}
        # The answer to requests of this content, instead of the name.
        self.says: dict[bytes, bytes] = {}
        # The seconds that requests of this content take.
        self.takes: dict[bytes, float] = {}
        # While it is not set, streams are accepted and not read.
        self.reads = asyncio.Event()
        self.reads.set()
        self.error_text, self.trailers = f"as {name} was told", 0
        self.asked = self.orders = 0
        self.last = b""  # the unary request that came last
        self.streamed: list[bytes] = []  # the messages that came in streams
        self.served = 0
        self.streams = 0
        self.serving = True
        self.speaks = asyncio.Event()  # unset, its sidecar answers only pings
        self.speaks.set()
        self.unanswered = 0  # health checks in flight
        self.port = self.health_port = 0

    async def start(self) -> Self:
        """Listen on free ports."""
        options = [
            *UNLIMITED,
            # It shares a process with the clients, so more requests queue than at a Triton.
            ("grpc.server.max_pending_requests", 100_000),
            ("grpc.server.max_pending_requests_hard_limit", 100_000),
            ("grpc.http2.max_ping_strikes", 0),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 100),
        ]
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers((_Handlers(self),))
        self.wire = Wire(self._server.add_insecure_port("127.0.0.1:0"))
        self.port = await self.wire.listen()
        await self._server.start()
        self._sidecar = grpc.aio.server()
        self._sidecar.add_generic_rpc_handlers((_Handlers(self),))
        self.health_port = self._sidecar.add_insecure_port("127.0.0.1:0")
        await self._sidecar.start()
        return self

    async def lose_sidecar(self) -> None:
        """Stop its sidecar."""
        await self._sidecar.stop(None)

    async def stop(self) -> None:
        """Stop the Triton and its sidecar."""
        self.speaks.set()
        self.wire.close()
        await self._server.stop(None)
        await self._sidecar.stop(None)

    def instance(self, **changes: Any) -> Instance:
        """The instance as the catalog shows it."""
        return Instance(self.name, "127.0.0.1", self.port, self.health_port, **changes)

    async def infer(self, request: bytes, context: Any) -> bytes:
        """Answer with the name and the length of the request."""
        self.asked, self.last = self.asked + 1, request
        if self.die_on_request:
            self.die_on_request = False
            self.wire.drop()
        while self.hang:
            await asyncio.sleep(0.05)
        await asyncio.sleep(self.takes.get(request, 0))
        if code := self.fails.get(request, self.fails.get(ANY)):
            trailers = tuple((f"trailer-{number}", "value") for number in range(self.trailers))
            await context.abort(code, self.error_text, trailers)
        self.served += 1
        context.set_trailing_metadata((("served-by", self.name),))
        return self.says.get(request) or f"{self.name}:{len(request)}".encode()

    async def unload(self, request: bytes, context: Any) -> bytes:
        """A request that changes the server, and must not be repeated."""
        self.orders += 1
        if code := self.fails.get(ANY):
            await context.abort(code, self.error_text)
        return self.name.encode()

    async def stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """For each request as many answers as the number in it: the first at once, others gated.

        A request without a number is echoed.
        """
        self.streams += 1
        await self.reads.wait()
        async for request in requests:
            self.streamed.append(request)
            if code := self.fails.get(request):
                await context.abort(code, self.error_text)
            if not request.strip().isdigit():
                yield request
                continue
            for turn in range(int(request)):
                if turn:
                    await self.gate.wait()
                yield f"{self.name}:{turn}".encode()

    async def check(self, request: bytes, context: Any) -> bytes:
        """grpc.health.v1 Check."""
        self.unanswered += 1
        await self.speaks.wait()
        self.unanswered -= 1
        status = health_pb2.HealthCheckResponse
        found = status.SERVING if self.serving else status.NOT_SERVING
        return bytes(status(status=found).SerializeToString())


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    def __init__(self, triton: FakeTriton) -> None:
        self._methods = {
            INFER: grpc.unary_unary_rpc_method_handler(triton.infer),
            UNLOAD: grpc.unary_unary_rpc_method_handler(triton.unload),
            **{
                TRITON + name: grpc.unary_unary_rpc_method_handler(triton.infer)
                for name in ("ModelReady", "ModelStatistics", "ServerReady")
            },
            STREAM: grpc.stream_stream_rpc_method_handler(triton.stream),
            "/grpc.health.v1.Health/Check": grpc.unary_unary_rpc_method_handler(triton.check),
        }

    def service(self, handler_call_details: Any) -> Any:
        return self._methods.get(handler_call_details.method)
