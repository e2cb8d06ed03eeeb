"""The door to Triton: the KServe v2 gRPC protocol, one channel, a deadline on every call."""

import asyncio
import errno
import itertools
import os
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Self

import grpc
import grpc.aio
from google.protobuf import text_format
from tritonclient.grpc import service_pb2, service_pb2_grpc

from sidecar.runtime.addresses import split_address
from sidecar.runtime.errors import (
    AnswerTooLarge,
    ConfigError,
    DeadlineExceeded,
    Disabled,
    Exiting,
    NotAdmitted,
    NotFound,
    Overloaded,
    Refused,
    Rejected,
    SidecarError,
    Unavailable,
    Unimplemented,
    words,
)
from sidecar.runtime.threads import in_daemon_thread
from sidecar.triton import answers, port_probe, tensors
from sidecar.triton.api import Answer, IndexEntry, ModelDescription, Question, Statistics, Tensor
from sidecar.triton.partial_answer import PartialAnswer

MAX_ANSWER = 16 * 2**20  # bytes
# Sequences of ours have these correlation ids. Clients count from 1 or draw 64 random bits, and
# both stay clear of the uppermost 2^16 that still fit the narrowest type, a model's INT32.
RESERVED_IDS = range(2**31 - 2**16, 2**31)
_READ_HEADERS = 1.0  # seconds
# Where they are strings, Triton 2.51 hands a backend a field of so many bytes, however long they
# are, and none with a shorter string in it can be read. No Triton takes longer ones.
_STRING_ID = 128  # characters
_END_SEQUENCE = 1.0  # seconds for telling Triton that a sequence which failed is over
_END_STREAM = 1.0  # seconds for Triton to end a stream that has had its last response
_OPTIONS = (
    ("grpc.max_send_message_length", 2**31 - 1),
    # A restarted Triton is to be seen at the next probe, not after gRPC's default back-off (120 s).
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),  # Triton is beside us, whatever http_proxy says
)
# How gRPC's core says, among other words, that what the other side sent exceeds our bound.
_TOO_LARGE = "CLIENT: Received message larger than max"
# Triton says UNAVAILABLE to this, though asking again is of no use.
_NOT_EXPLICIT = "explicit model load / unload is not allowed"
# And this of a request whose queue is full, or that has waited in it for longer than its policy
# allows. It says UNAVAILABLE to much else, too.
_REFUSED_FOR_LOAD = ("Exceeds maximum queue size", "Request timeout expired")
# And this of a sequence that has not begun, or has lost its slot: `max_sequence_idle_microseconds`
# go by while a step is waited for as well.
_NOT_BEGUN = "must specify the START flag on the first request"
# And this while it stops gracefully, to everybody, for as long as requests are left.
_EXITING = "Server exiting"
# And this to a client without the right header of --grpc-restricted-protocol.
_RESTRICTED = "This protocol is restricted"
_ADMISSION = "expected what it asks for in triton.headers or triton.header_files"

Headers = Mapping[str, str]


class _NotBegun(Rejected):
    """Triton holds no slot for the sequence that a step belongs to."""


def _no_headers() -> Headers:
    return {}


class Triton:
    """One Triton server, as `TritonApi` promises; an async context manager.

    An answer of more than `max_answer` bytes, a whole stream's included, is not held but refused.
    `headers` reads those that go with every call: now, and anew when Triton does not admit one.

    Raises:
        ConfigError: the headers cannot be read.
    """

    def __init__(
        self,
        address: str,
        max_answer: int = MAX_ANSWER,
        headers: Callable[[], Headers] = _no_headers,
    ) -> None:
        self._read_headers = headers
        self._reading: asyncio.Future[Headers] | None = None
        self._metadata = tuple(headers().items())
        self._host, self._port = split_address(address)
        self._max_answer = max_answer
        options = (*_OPTIONS, ("grpc.max_receive_message_length", max_answer))
        self._channel = grpc.aio.insecure_channel(address, options=options)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        # From anywhere in the range, for another of us may ask the same Triton.
        offset = random.randrange(len(RESERVED_IDS))  # noqa: S311
        self._ids = itertools.cycle([*RESERVED_IDS[offset:], *RESERVED_IDS[:offset]])
        self._endings: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._endings:
            await asyncio.wait(self._endings)
        await self._channel.close(None)

    async def connect(self, timeout: float) -> None:
        """Open a TCP connection to the gRPC port and close it again."""
        try:
            async with asyncio.timeout(timeout):
                _, writer = await asyncio.open_connection(self._host, self._port)
        except TimeoutError:
            raise DeadlineExceeded("no connection in time") from None
        except ConnectionRefusedError as error:
            raise Refused(os.strerror(errno.ECONNREFUSED)) from error
        except OSError as error:
            raise Unavailable(words(error)) from error
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
        until = time.monotonic() + timeout
        request = service_pb2.ServerLiveRequest()
        try:
            return bool((await self._ask_server(self._stub.ServerLive, request, timeout)).live)
        except DeadlineExceeded:
            raise
        except Unavailable as error:
            left = max(0.0, until - time.monotonic())
            if found := await port_probe.foreign(self._host, self._port, left):
                raise NotAdmitted(found) from error
            raise

    async def server_ready(self, timeout: float) -> bool:
        """Whether Triton calls itself ready."""
        request = service_pb2.ServerReadyRequest()
        return bool((await self._ask_server(self._stub.ServerReady, request, timeout)).ready)

    async def server_version(self, timeout: float) -> str:
        """Triton's version, such as `2.51.0`."""
        request = service_pb2.ServerMetadataRequest()
        return str((await self._call(self._stub.ServerMetadata, request, timeout)).version)

    async def model_ready(self, model: str, timeout: float, version: str = "") -> bool:
        """Whether Triton calls a model ready; one that it does not know is not."""
        request = service_pb2.ModelReadyRequest(name=model, version=version)
        try:
            return bool((await self._call(self._stub.ModelReady, request, timeout)).ready)
        except NotAdmitted:
            raise
        except Rejected:
            return False

    async def describe(self, model: str, timeout: float) -> ModelDescription:
        """Versions, tensors and configuration of a loaded model."""
        until = time.monotonic() + timeout
        request = service_pb2.ModelMetadataRequest(name=model)
        metadata = await self._call(self._stub.ModelMetadata, request, timeout)
        config_request = service_pb2.ModelConfigRequest(name=model)
        left = until - time.monotonic()
        answer = await self._call(self._stub.ModelConfig, config_request, left)
        return answers.description(metadata, answer.config)

    async def infer(self, question: Question, timeout: float) -> Answer:
        """One inference over gRPC, by the call that clients of such a model use.

        The sequence of a stateful model has a correlation id of its own, out of `RESERVED_IDS`, or
        a string where the model declares that; never a string elsewhere, as Triton 2.51 would write
        it over its own memory. If one of its steps fails, is late or is cancelled, Triton is told
        in the background that it is over.
        """
        arriving = PartialAnswer(self._max_answer)
        sequence = self._sequence(question) if question.stateful else 0
        try:
            for step, request in enumerate(_requests(question, sequence)):
                arriving.next_step()
                left = timeout - arriving.age()
                with _keeping_its_slot(step):
                    await self._ask(request, question.decoupled, left, arriving)
        except BaseException:
            if sequence:
                self._end_sequence(question, sequence)
            raise
        return arriving.answer()

    async def statistics(self, timeout: float) -> tuple[Statistics, ...]:
        """What is counted for every version of every loaded model."""
        request = service_pb2.ModelStatisticsRequest()
        answer = await self._call(self._stub.ModelStatistics, request, timeout)
        return tuple(map(answers.statistics, answer.model_stats))

    async def load_model(self, model: str, timeout: float) -> None:
        """Load a model, or load it anew if its files have changed; return when it can be asked."""
        request = service_pb2.RepositoryModelLoadRequest(model_name=model)
        await self._call(self._stub.RepositoryModelLoad, request, timeout)

    async def unload_model(self, model: str, timeout: float) -> None:
        """Begin to unload a model, with those of an ensemble that nothing else needs."""
        request = service_pb2.RepositoryModelUnloadRequest(model_name=model)
        request.parameters["unload_dependents"].bool_param = True
        await self._call(self._stub.RepositoryModelUnload, request, timeout)

    async def repository_index(self, timeout: float) -> tuple[IndexEntry, ...]:
        """Every version of every model that Triton knows of, and its state."""
        request = service_pb2.RepositoryIndexRequest()
        answer = await self._call(self._stub.RepositoryIndex, request, timeout)
        return tuple(
            IndexEntry(each.name, each.version, each.state, each.reason) for each in answer.models
        )

    async def _ask(
        self, request: Any, decoupled: bool, timeout: float, arriving: PartialAnswer
    ) -> None:
        if not decoupled:
            arriving.add(await self._call(self._stub.ModelInfer, request, timeout))
            return
        stream = self._stub.ModelStreamInfer(
            _once(request), timeout=max(0.0, timeout), metadata=self._metadata
        )
        last = False
        try:
            async for response in stream:
                found = _readable(response).infer_response
                last = found.parameters["triton_final_response"].bool_param
                if response.error_message:
                    raise _in_band(response.error_message)
                arriving.add(found)
                if last:
                    return
        except grpc.RpcError as error:
            raise await self._translated(error) from error
        finally:
            if last:
                # Also where we are cancelled: it must neither stay nor be cut at once.
                await asyncio.shield(self._in_background(_end(stream)))
            else:
                stream.cancel()

    def _sequence(self, question: Question) -> int | str:
        number: int = next(self._ids)
        if not question.string_ids:
            return number
        return f"triton-sidecar-{uuid.uuid4().hex}-{number}-".ljust(_STRING_ID, "0")

    def _end_sequence(self, question: Question, sequence: int | str) -> None:
        """End a sequence in the background; whether that works changes nothing."""

        async def tell() -> None:
            request = _request(question, len(question.steps) - 1, sequence)
            request.parameters["sequence_start"].bool_param = False
            request.parameters["sequence_end"].bool_param = True
            with suppress(SidecarError):
                arriving = PartialAnswer(self._max_answer)
                await self._ask(request, question.decoupled, _END_SEQUENCE, arriving)

        self._in_background(tell())

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that is waited for when the door closes."""
        ending = asyncio.create_task(work)
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)
        return ending

    async def _call(self, method: Any, request: Any, timeout: float) -> Any:
        try:
            return _readable(
                await method(request, timeout=max(0.0, timeout), metadata=self._metadata)
            )
        except grpc.RpcError as error:
            raise await self._translated(error) from error

    async def _ask_server(self, method: Any, request: Any, timeout: float) -> Any:
        """Ask what every server of KServe's protocol answers."""
        try:
            return await self._call(method, request, timeout)
        except Unimplemented as error:
            raise NotAdmitted(f"{error}: expected Triton's gRPC service in triton.grpc") from error

    async def _translated(self, error: grpc.RpcError) -> SidecarError:
        """Our own error; after a call that was not admitted the next one has the newest headers."""
        found = translate(error)
        if not isinstance(found, NotAdmitted):
            return found
        try:
            if self._reading is None or self._reading.done():  # one that hangs is enough
                self._reading = in_daemon_thread(self._read_headers, "triton headers")
            headers = await asyncio.wait_for(asyncio.shield(self._reading), _READ_HEADERS)
        except TimeoutError:
            return NotAdmitted(f"{found}; reading triton.header_files takes long")
        except ConfigError as mistake:
            return NotAdmitted(f"{found}; {mistake}")
        self._metadata = tuple(headers.items())
        return found


def translate(error: grpc.RpcError) -> SidecarError:
    """The package's own error for a gRPC status; statuses as in gRPC's specification."""
    code = error.code() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
    details = error.details() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
    text = f"{code.name if code else 'UNKNOWN'}: {details or 'no details'}"
    match code:
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded("no answer in time")
        case grpc.StatusCode.UNAVAILABLE:
            return _unavailable(text)
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
            return NotAdmitted(f"{text}: {_ADMISSION}")
        case grpc.StatusCode.CANCELLED | None:
            return Unavailable(text)
        case grpc.StatusCode.RESOURCE_EXHAUSTED if _TOO_LARGE in text:
            return AnswerTooLarge(text)
        case grpc.StatusCode.NOT_FOUND:
            return NotFound(text)
        case grpc.StatusCode.UNIMPLEMENTED:
            return Unimplemented(text)
        case _:
            return _refused(text)


def _unavailable(text: str) -> SidecarError:
    """What UNAVAILABLE means: only its text tells what of much it is."""
    if _NOT_EXPLICIT in text:
        return Disabled(text)
    if _for_load(text):
        return Overloaded(text)
    if _EXITING in text:
        return Exiting(text)
    return NotAdmitted(f"{text}: {_ADMISSION}") if _RESTRICTED in text else Unavailable(text)


def _refused(text: str) -> Rejected:
    return _NotBegun(text) if _NOT_BEGUN in text else Rejected(text)


@contextmanager
def _keeping_its_slot(step: int) -> Iterator[None]:
    """Tell that a sequence which has begun lost its slot: it was too slow for the others."""
    try:
        yield
    except _NotBegun as error:
        if step:
            raise Overloaded(f"the sequence has lost its slot: {error}") from error
        raise


def _in_band(text: str) -> SidecarError:
    """The error of a stream's response, which has a text and no status."""
    return Overloaded(text) if _for_load(text) else _refused(text)


def _for_load(text: str) -> bool:
    return any(each in text for each in _REFUSED_FOR_LOAD)


def parse_config(text: str, newer: bool = True) -> Any:
    """The `ModelConfig` that a config.pbtxt holds.

    Args:
        text: what is in the file.
        newer: whether fields that are newer than we are do not matter.

    Raises:
        ValueError: it cannot be parsed; the message has line and column.
    """
    config = service_pb2.ModelConfigResponse().config
    try:
        return text_format.Parse(text, config, allow_unknown_field=newer)
    except text_format.ParseError as error:
        raise ValueError(str(error)) from error


def infer_request(
    model: str, inputs: Mapping[str, Tensor], version: str = "", priority: int = 0
) -> Any:
    """A `ModelInferRequest` with its tensors in raw form."""
    request = service_pb2.ModelInferRequest(model_name=model, model_version=version)
    # Asks a decoupled model's backend to mark its last response, which may be an empty one.
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    if priority:
        request.parameters["priority"].uint64_param = priority
    for name, value in inputs.items():
        request.inputs.add(name=name, datatype=value.datatype, shape=value.array.shape)
        request.raw_input_contents.append(tensors.encode(value))
    return request


def _requests(question: Question, sequence: int | str) -> Iterator[Any]:
    return (_request(question, step, sequence) for step in range(len(question.steps)))


def _request(question: Question, step: int, sequence: int | str) -> Any:
    """The request of one step, with what makes it part of a sequence unless that is 0."""
    request = infer_request(
        question.model, question.steps[step], question.version, question.priority
    )
    request.id = question.id
    for name, value in question.parameters.items():
        _set(request.parameters[name], value)
    for name, as_class in question.outputs:
        output = request.outputs.add(name=name)
        if as_class:
            output.parameters["classification"].int64_param = 1
    if sequence:
        _set(request.parameters["sequence_id"], sequence)
        request.parameters["sequence_start"].bool_param = step == 0
        request.parameters["sequence_end"].bool_param = step == len(question.steps) - 1
    return request


def _set(parameter: Any, value: bool | int | float | str) -> None:
    match value:
        case bool():
            parameter.bool_param = value
        case int():
            parameter.int64_param = value
        case float():
            parameter.double_param = value
        case str():
            parameter.string_param = value


async def _once(request: Any) -> AsyncIterator[Any]:
    yield request


async def _end(stream: Any) -> None:
    """Let Triton end a stream that has had its last response, and cancel it if that takes long.

    One that is cancelled at that moment may stay in Triton for ever, and keeps its model from being
    unloaded (docs/decisions/0062).
    """
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_STREAM):
                await stream.code()
    finally:
        stream.cancel()


def _readable(message: Any) -> Any:
    if message is None:  # gRPC's way of saying that it could not parse it
        raise Rejected("the answer cannot be decoded")
    return message
