"""Requests for models, as bytes, to fake Tritons behind a real Envoy that routes by model."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2

from sidecar.traffic.policy import Mode, ModelRule, RoutingMode, TrafficPolicy
from sidecar.xds.config.filters.model_filter import ANSWERED_BY
from tests.support.xds.control_plane import UNHURRIED
from tests.support.xds.fake_tritons import STREAM, TRITON, UNLIMITED
from tests.support.xds.waiting import PATIENCE, eventually


def policy(
    mode: Mode = Mode.ACTIVE_STANDBY, models: Mapping[str, ModelRule] | None = None, **changes: Any
) -> TrafficPolicy:
    """A traffic policy that routes by model."""
    rules = tuple(sorted((models or {}).items()))
    return replace(UNHURRIED, mode=mode, routing=RoutingMode.BY_MODEL, models=rules, **changes)


def request(model: str, size: int = 0) -> bytes:
    """A ModelInferRequest, with a tensor of so many bytes."""
    tensors = [bytes(size)] if size else []
    made = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=tensors)
    return bytes(made.SerializeToString())


def model_of(message: bytes) -> str:
    """The model that Triton reads in a request."""
    return str(service_pb2.ModelInferRequest.FromString(message).model_name)


@dataclass(frozen=True, slots=True)
class Answer:
    """Which instance answered, and which model according to the response headers; or an error."""

    by: str = ""
    model: str = ""
    code: grpc.StatusCode = grpc.StatusCode.OK
    why: str = ""


class ModelClient:
    """A gRPC client that sends bytes."""

    def __init__(self, port: int) -> None:
        target = f"127.0.0.1:{port}"
        self._channel = grpc.aio.insecure_channel(target, options=UNLIMITED)

    async def ask(
        self, model: str, method: str = "ModelInfer", size: int = 0, **options: Any
    ) -> Answer:
        """Send a request for a model; all of these methods have the name in field 1."""
        return await self.send(request(model, size), method, **options)

    async def send(self, message: bytes, method: str = "ModelInfer", **options: Any) -> Answer:
        """Send a request."""
        call: Any = self._channel.unary_unary(TRITON + method)  # type: ignore[call-arg]
        asked = call(message, timeout=PATIENCE, **options)
        try:
            found: bytes = await asked
        except grpc.aio.AioRpcError as error:
            return Answer(code=error.code(), why=error.details() or "")
        headers = {str(name): str(value) for name, value in await asked.initial_metadata()}
        return Answer(found.decode().partition(":")[0], headers.get(ANSWERED_BY, ""))

    def stream(self, **options: Any) -> Any:
        """Open a stream; to be written and read as bytes."""
        call: Any = self._channel.stream_stream(STREAM)  # type: ignore[call-arg]
        return call(timeout=PATIENCE, **options)

    async def count(self, model: str, requests: int = 40) -> set[str]:
        """The instances that answer requests for a model, sent one after the other."""
        return {(await self.ask(model)).by for _ in range(requests)}

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close(None)


class ModelLoad:
    """Closed-loop clients, some for each model."""

    def __init__(self, client: ModelClient, models: Iterable[str], clients: int = 4) -> None:
        self.answers: Counter[tuple[str, str]] = Counter()  # by model and instance
        self.failures: list[tuple[str, Answer]] = []
        self._client, self._done = client, False
        self._tasks = [
            asyncio.create_task(self._run(model)) for model in models for _ in range(clients)
        ]

    async def _run(self, model: str) -> None:
        while not self._done:
            found = await self._client.ask(model)
            if found.code is grpc.StatusCode.OK:
                self.answers[model, found.by] += 1
            else:
                self.failures.append((model, found))
            await asyncio.sleep(0.002)

    async def more(self, model: str, by: str, count: int = 20) -> None:
        """Wait for more answers to requests for a model from an instance."""
        start = self.answers[model, by]
        await eventually(lambda: self.answers[model, by] >= start + count, f"{model} by {by}")

    async def stop(self) -> None:
        """Stop after each client's request in flight."""
        self._done = True
        await asyncio.gather(*self._tasks)
