"""Trials: a suspected request is sent to one instance, apart from others without a result yet.

Acts: asyncio, grpc, urllib.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import quote

import grpc
import grpc.aio

from sidecar.runtime.addresses import join_address
from sidecar.traffic.policy import Connection
from sidecar.xds.catalog.catalog import Instance
from sidecar.xds.config.methods import INFER_PATH, STREAM_PATH
from sidecar.xds.quarantine.suspects import Endpoint

# Seconds that a trial may take; as long as clients without a deadline wait.
LONGEST = 300.0
# Seconds after which the next trial starts next to one that has neither been answered nor crashed
# the instance: generations are long, and many may wait.
_SETTLED = 2.0
_CONNECT = 1.0  # seconds
_LOST = 0.5  # seconds
# Bytes of an encoded error text that pass through every Envoy. Of a longer one the client gets the
# beginning: gRPC clients accept no more by default.
_PASSES, _PASSED_ON = 16_384, 4096
_TEXTS = 1 << 24  # bytes of the longest error text that is read
# Answers that may come from a server that has not started on the request.
_INCONCLUSIVE = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}


class TrialOutcome(Enum):
    """The outcome of a trial."""

    ANSWERED = "answered"
    DOWN = "down"  # the connection was lost
    NOTHING = "nothing"  # not tried, or answered without being processed


@dataclass(frozen=True, slots=True)
class OversizedError:
    """An error whose text is so long that it would end Envoy's connection to the instance.

    Its status, and the beginning of the text as gRPC encodes it.
    """

    status: int
    text: str


Answer = TrialOutcome | OversizedError


@dataclass(frozen=True, slots=True)
class HeldRequest:
    """A request that Envoy holds back: its content, and the instances that crashed with it.

    Of a stream (`streamed`), the content is the first message. `model` is the one that it names.
    """

    fingerprint: str
    streamed: bool
    endpoints: tuple[Endpoint, ...]
    message: bytes
    metadata: tuple[tuple[str, str | bytes], ...]
    model: str = ""


@dataclass(eq=False, slots=True)
class _Trial:
    alone: bool = True


class Trials:
    """Runs trials, on each instance one after the other."""

    def __init__(self) -> None:
        self._lanes: dict[Endpoint, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._running: dict[Endpoint, set[_Trial]] = defaultdict(set)

    def busy(self, endpoint: Endpoint) -> bool:
        """Whether a trial runs on an instance."""
        return bool(self._running[endpoint])

    async def run(
        self,
        where: tuple[Instance, Connection],
        request: HeldRequest,
        *,
        wanted: Callable[[], bool],
        exclusive: bool,
    ) -> tuple[Answer, bool]:
        """Try a request when its turn comes, if it is still `wanted` then.

        An `exclusive` trial has no other trial next to it from start to end.

        Returns:
            The outcome, and whether it was the only trial on the instance.
        """
        endpoint = where[0].endpoint
        running = self._running[endpoint]
        async with self._lanes[endpoint]:
            if not wanted() or (exclusive and running):
                return TrialOutcome.NOTHING, False
            trial = _Trial(alone=not running)
            for each in running:
                each.alone = False
            running.add(trial)
            task = asyncio.create_task(_bounded(_sent(*where, request)))
            try:
                await asyncio.wait([task], timeout=None if exclusive else _SETTLED)
            except asyncio.CancelledError:
                _end(task, trial, running)
                raise
        try:
            return await task, trial.alone
        finally:
            _end(task, trial, running)


def _end(task: "asyncio.Task[Answer]", trial: _Trial, running: set[_Trial]) -> None:
    task.cancel()
    running.discard(trial)


async def _bounded(sending: Awaitable[Answer]) -> Answer:
    """The outcome within a trial's time limit; a request that cannot be sent has none."""
    try:
        async with asyncio.timeout(_CONNECT + LONGEST + _LOST):
            return await sending
    except (TimeoutError, grpc.RpcError, ValueError, TypeError):
        return TrialOutcome.NOTHING


async def _sent(instance: Instance, connection: Connection, request: HeldRequest) -> Answer:
    """The outcome of a request on a separate connection, whose loss is this server's crash."""
    address = join_address(instance.address, instance.port)
    async with grpc.aio.insecure_channel(address, _options(connection)) as channel:
        try:
            await asyncio.wait_for(channel.channel_ready(), _CONNECT)
        except TimeoutError:
            return TrialOutcome.NOTHING
        code, text = await _answered(channel, request)
        if code is grpc.StatusCode.UNAVAILABLE and await _lost(channel):
            return TrialOutcome.DOWN
        # RESOURCE_EXHAUSTED means that even our limit was too small: an extremely long text.
        if len(quote(text)) > _PASSES or code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return OversizedError(code.value[0], _beginning(text))
        return TrialOutcome.NOTHING if code in _INCONCLUSIVE else TrialOutcome.ANSWERED


def _beginning(text: str) -> str:
    """The beginning of a text, as gRPC encodes it, without cutting a character in two."""
    beginning = text[:_PASSED_ON]
    while len(sent := quote(beginning)) > _PASSED_ON:
        beginning = beginning[: len(beginning) // 2]
    return sent


async def _answered(channel: grpc.aio.Channel, request: HeldRequest) -> tuple[grpc.StatusCode, str]:
    """The status and text with which a request ends; for a stream, one response is enough.

    Envoy does not retry a request whose instance fails after a response: that is no crash here
    either.
    """
    method: Any
    if request.streamed:
        method = channel.stream_stream(STREAM_PATH)  # type: ignore[call-arg]
        call = method(iter([request.message]), metadata=request.metadata, timeout=LONGEST)
        with suppress(grpc.aio.AioRpcError):
            async for _ in call:
                call.cancel()
                return grpc.StatusCode.OK, ""
    else:
        method = channel.unary_unary(INFER_PATH)  # type: ignore[call-arg]
        call = method(request.message, metadata=request.metadata, timeout=LONGEST)
    return await call.code(), await call.details() or ""


async def _lost(channel: grpc.aio.Channel) -> bool:
    """Whether its connection ended, which the channel may notice after the call."""
    try:
        async with asyncio.timeout(_LOST):
            await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
    except TimeoutError:
        return False
    return True


def _options(connection: Connection) -> list[tuple[str, int]]:
    return [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_metadata_size", _TEXTS),
        ("grpc.absolute_max_metadata_size", _TEXTS),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.keepalive_time_ms", round(1000 * connection.keepalive_interval)),
        ("grpc.keepalive_timeout_ms", round(1000 * connection.keepalive_timeout)),
        ("grpc.http2.ping_timeout_ms", round(1000 * connection.keepalive_timeout)),
        ("grpc.http2.max_pings_without_data", 0),
    ]
