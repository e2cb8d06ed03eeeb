"""A gRPC server that answers as tinychat and tinychat_unary do: quickly, late, wrongly or never."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from sidecar.local.demo_questions import STREAM, UNARY


class ChatServer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """What the server does may be changed while it runs; `instances` answer a stream in turn."""

    def __init__(self) -> None:
        self.address = ""
        self.instances = ["here"]
        self.text = "right"
        self.fails = False
        self.answers = asyncio.Event()
        self.answers.set()
        self.waiting = self.most_waiting = 0

    async def ModelReady(self, request: Any, context: Any) -> Any:
        """Whether it is one of the two."""
        return service_pb2.ModelReadyResponse(ready=request.name in (UNARY, STREAM))

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        """One answer."""
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        try:
            await self.answers.wait()
        finally:
            self.waiting -= 1
        if self.fails:
            await context.abort(grpc.StatusCode.INTERNAL, "told to fail")
        return _response(self.text, self.instances[0])

    async def ModelStreamInfer(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        """An answer in as many responses as there are instances."""
        async for _ in requests:
            for number, instance in enumerate(self.instances, 1):
                found = _response(self.text, instance)
                last = number == len(self.instances)
                found.parameters["triton_final_response"].bool_param = last
                yield service_pb2.ModelStreamInferResponse(infer_response=found)


@asynccontextmanager
async def chat_server() -> AsyncIterator[ChatServer]:
    """A server on a free port that runs while the context lasts."""
    found, server = ChatServer(), grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(found, server)
    found.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield found
    finally:
        found.answers.set()
        await server.stop(0)


def _response(*elements: str) -> Any:
    found = service_pb2.ModelInferResponse(model_name="tinychat", model_version="1")
    found.outputs.add(name="text_output", datatype="BYTES", shape=[len(elements)])
    encoded = (element.encode() for element in elements)
    found.raw_output_contents.append(b"".join(struct.pack("<I", len(e)) + e for e in encoded))
    return found
