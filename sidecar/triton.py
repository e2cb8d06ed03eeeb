"""The door to Triton: the KServe v2 gRPC protocol, one channel, a deadline on every call."""

import asyncio
import os
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import grpc
import grpc.aio
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import (
    deserialize_bytes_tensor,
    np_to_triton_dtype,
    serialize_byte_tensor,
    triton_to_np_dtype,
)

from sidecar.errors import Rejected, SidecarError, Unavailable
from sidecar.settings.values import split_address

Tensor = NDArray[Any]
_MAX_MESSAGE = 2**31 - 1
_OPTIONS = (
    ("grpc.max_send_message_length", _MAX_MESSAGE),
    ("grpc.max_receive_message_length", _MAX_MESSAGE),
    # A restarted Triton is to be seen at the next probe, not after gRPC's default back-off (120 s).
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),  # Triton is beside us, whatever http_proxy says
)


class DeadlineExceeded(Unavailable):
    """Triton did not answer within the deadline of the call."""


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What a Triton says of one model that is loaded."""

    name: str
    versions: tuple[str, ...]
    config: bytes
    decoupled: bool


class Triton:
    """One Triton server; an async context manager.

    Every method takes its deadline in seconds and raises `DeadlineExceeded` when it passes,
    `Unavailable` when Triton cannot be reached, `Rejected` when Triton answers with an error.
    """

    def __init__(self, address: str) -> None:
        self._host, self._port = split_address(address)
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close(None)

    async def connect(self, timeout: float) -> None:
        """Open a TCP connection to the gRPC port and close it again."""
        try:
            async with asyncio.timeout(timeout):
                _, writer = await asyncio.open_connection(self._host, self._port)
        except TimeoutError:
            raise DeadlineExceeded("no connection in time") from None
        except OSError as error:
            # A resolver's errors have numbers below zero, which are not the system's.
            number = error.errno or 0
            raise Unavailable(os.strerror(number) if number > 0 else str(error)) from error
        writer.close()

    async def disconnected(self) -> None:
        """Return when an established connection is lost; never if there is none to lose."""
        state = self._channel.get_state()
        while True:
            was_ready = state is grpc.ChannelConnectivity.READY
            await self._channel.wait_for_state_change(state)
            if was_ready:
                return
            state = self._channel.get_state()

    async def server_live(self, timeout: float) -> bool:
        """Whether Triton calls itself live."""
        request = service_pb2.ServerLiveRequest()
        return bool((await self._call(self._stub.ServerLive, request, timeout)).live)

    async def server_ready(self, timeout: float) -> bool:
        """Whether Triton calls itself ready."""
        request = service_pb2.ServerReadyRequest()
        return bool((await self._call(self._stub.ServerReady, request, timeout)).ready)

    async def server_version(self, timeout: float) -> str:
        """Triton's version, such as `2.51.0`."""
        request = service_pb2.ServerMetadataRequest()
        return str((await self._call(self._stub.ServerMetadata, request, timeout)).version)

    async def model_ready(self, model: str, timeout: float) -> bool:
        """Whether Triton calls a model ready; a model that it does not know is not."""
        request = service_pb2.ModelReadyRequest(name=model)
        try:
            return bool((await self._call(self._stub.ModelReady, request, timeout)).ready)
        except Rejected:
            return False

    async def describe(self, model: str, timeout: float) -> ModelDescription:
        """Versions and configuration of a loaded model."""
        request = service_pb2.ModelMetadataRequest(name=model)
        metadata = await self._call(self._stub.ModelMetadata, request, timeout)
        config_request = service_pb2.ModelConfigRequest(name=model)
        config = (await self._call(self._stub.ModelConfig, config_request, timeout)).config
        return ModelDescription(
            name=model,
            versions=tuple(metadata.versions),
            config=config.SerializeToString(deterministic=True),
            decoupled=config.model_transaction_policy.decoupled,
        )

    async def infer(
        self, model: str, inputs: Mapping[str, Tensor], timeout: float, *, decoupled: bool = False
    ) -> dict[str, Tensor]:
        """One inference: the outputs by name.

        The responses of a decoupled model are put together: text is joined into one element,
        numbers are flattened and put in a row.
        """
        request = infer_request(model, inputs)
        if not decoupled:
            return _tensors(await self._call(self._stub.ModelInfer, request, timeout))
        responses: list[dict[str, Tensor]] = []
        try:
            async for response in self._stub.ModelStreamInfer(_once(request), timeout=timeout):
                if response.error_message:
                    raise Rejected(response.error_message)
                found = response.infer_response
                if found.outputs:
                    responses.append(_tensors(found))
                if found.parameters["triton_final_response"].bool_param:
                    break
        except grpc.RpcError as error:
            raise translate(error) from error
        return _joined(responses)

    async def _call(self, method: Any, request: Any, timeout: float) -> Any:
        try:
            answer = await method(request, timeout=timeout)
        except grpc.RpcError as error:
            raise translate(error) from error
        if answer is None:  # gRPC's way of saying that it could not parse it
            raise Rejected("the answer cannot be decoded")
        return answer


def translate(error: grpc.RpcError) -> SidecarError:
    """The package's own error for a gRPC status; statuses as in gRPC's specification."""
    code = error.code() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
    details = error.details() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
    text = f"{code.name if code else 'UNKNOWN'}: {details or 'no details'}"
    match code:
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded("no answer in time")
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED | None:
            return Unavailable(text)
        case _:
            return Rejected(text)


def tensor(datatype: str, shape: Sequence[int], data: Sequence[object]) -> Tensor:
    """An array of a KServe datatype from flat elements in row-major order."""
    if datatype == "BYTES":
        encoded = [str(element).encode() for element in data]
        return np.array(encoded, dtype=np.object_).reshape(shape)
    return np.array(data, dtype=triton_to_np_dtype(datatype)).reshape(shape)


def infer_request(model: str, inputs: Mapping[str, Tensor]) -> Any:
    """A `ModelInferRequest` with its tensors in raw form."""
    request = service_pb2.ModelInferRequest(model_name=model)
    # Asks a decoupled model's backend to mark its last response, which may be an empty one.
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    for name, array in inputs.items():
        datatype = np_to_triton_dtype(array.dtype)
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        raw = serialize_byte_tensor(array).item() if datatype == "BYTES" else array.tobytes()
        request.raw_input_contents.append(raw)
    return request


async def _once(request: Any) -> AsyncIterator[Any]:
    yield request


def _tensors(response: Any) -> dict[str, Tensor]:
    """The outputs of one response.

    Raises:
        Rejected: they are not what their datatypes and shapes say.
    """
    outputs, contents = response.outputs, response.raw_output_contents
    if len(outputs) != len(contents):
        raise Rejected(f"{len(outputs)} outputs, but {len(contents)} raw contents")
    try:
        return {each.name: _tensor(each, raw) for each, raw in zip(outputs, contents, strict=True)}
    except (ValueError, TypeError, struct.error) as error:
        raise Rejected(f"an output cannot be decoded: {error}") from error


def _tensor(output: Any, raw: bytes) -> Tensor:
    dtype = triton_to_np_dtype(output.datatype)
    if dtype is None:
        raise ValueError(f"{output.name} has the unknown datatype {output.datatype!r}")
    text = output.datatype == "BYTES"
    flat = deserialize_bytes_tensor(raw) if text else np.frombuffer(raw, dtype=dtype)
    return flat.reshape(tuple(output.shape))


def _joined(responses: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    joined: dict[str, Tensor] = {}
    for name in {name: None for response in responses for name in response}:
        parts = [response[name] for response in responses if name in response]
        if all(part.dtype == np.object_ for part in parts):
            text = b"".join(element for part in parts for element in part.flat)
            joined[name] = np.array([text], dtype=np.object_)
        else:
            joined[name] = np.concatenate([part.ravel() for part in parts])
    return joined
