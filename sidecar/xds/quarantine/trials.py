"""Trials: a request is sent to one instance, with none beside it of which nothing is known yet."""

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

# Seconds that a trial may take; clients without a deadline wait as long.
LONGEST = 300.0
# Seconds after which the next one is tried beside one that has neither been answered nor gone down:
# generations are long, and many may wait.
_SETTLED = 2.0
_CONNECT = 1.0  # seconds
_LOST = 0.5  # seconds
# Bytes of an error's text, as it is sent, that pass through every Envoy. Of one that may not pass
# the client is told the beginning: clients of gRPC take no more by default.
_PASSES, _TOLD = 16_384, 4096
_TEXTS = 1 << 24  # bytes of the longest one that is read
# Answers that may come from a server that has not begun to work on the request.
_INCONCLUSIVE = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}


class TrialOutcome(Enum):
    """What became of a trial."""

    ANSWERED = "answered"
    DOWN = "down"  # the connection was lost
    NOTHING = "nothing"  # not tried, or answered without having been worked on


@dataclass(frozen=True, slots=True)
class OversizedError:
    """An error that would end the connection on which Envoy reads it, for its text is too long.

    The beginning of it, as gRPC sends it, with its status.
    """

    status: int
    text: str


Answer = TrialOutcome | OversizedError


@dataclass(frozen=True, slots=True)
class HeldRequest:
    """A request that Envoy holds back: what it asks, and the instances that went down with it.

    Of a stream, with `streamed`, it asks what the first message does.
    """

    fingerprint: str
    streamed: bool
    endpoints: tuple[Endpoint, ...]
    message: bytes
    metadata: tuple[tuple[str, str | bytes], ...]


@dataclass(eq=False, slots=True)
class _Trial:
    alone: bool = True


class Trials:
    """Tries requests, on each instance one after the other."""

    def __init__(self) -> None:
        self._lanes: dict[Endpoint, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._running: dict[Endpoint, set[_Trial]] = defaultdict(set)

    def busy(self, endpoint: Endpoint) -> bool:
        """Whether an instance is being tried on."""
        return bool(self._running[endpoint])

    async def run(
        self,
        where: tuple[Instance, Connection],
        question: HeldRequest,
        *,
        wanted: Callable[[], bool],
        exclusive: bool,
    ) -> tuple[Answer, bool]:
        """Try a request in its turn, if it is still `wanted` then.

        One that is `exclusive` has nobody beside it from its beginning to its end.

        Returns:
            What became of it, and whether it was alone on the instance.
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
            task = asyncio.create_task(_bounded(_sent(*where, question)))
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
    """What becomes of it in the time that a trial may take; a request that cannot be sent hangs."""
    try:
        async with asyncio.timeout(_CONNECT + LONGEST + _LOST):
            return await sending
    except (TimeoutError, grpc.RpcError, ValueError, TypeError):
        return TrialOutcome.NOTHING


async def _sent(instance: Instance, connection: Connection, question: HeldRequest) -> Answer:
    """What becomes of a request on a connection of its own, whose loss is this server's."""
    address = join_address(instance.address, instance.port)
    async with grpc.aio.insecure_channel(address, _options(connection)) as channel:
        try:
            await asyncio.wait_for(channel.channel_ready(), _CONNECT)
        except TimeoutError:
            return TrialOutcome.NOTHING
        code, text = await _answered(channel, question)
        if code is grpc.StatusCode.UNAVAILABLE and await _lost(channel):
            return TrialOutcome.DOWN
        # Exhausted is what there was room for here too: texts beyond all measure.
        if len(quote(text)) > _PASSES or code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return OversizedError(code.value[0], _beginning(text))
        return TrialOutcome.NOTHING if code in _INCONCLUSIVE else TrialOutcome.ANSWERED


def _beginning(text: str) -> str:
    """Some of a text, as gRPC sends it, with no character cut in two."""
    said = text[:_TOLD]
    while len(sent := quote(said)) > _TOLD:
        said = said[: len(said) // 2]
    return sent


async def _answered(
    channel: grpc.aio.Channel, question: HeldRequest
) -> tuple[grpc.StatusCode, str]:
    """The status and text with which a request ends; that a stream was answered once is enough.

    A request whose instance fails after an answer is not sent again: that is no death here either.
    """
    method: Any
    if question.streamed:
        method = channel.stream_stream(STREAM_PATH)  # type: ignore[call-arg]
        call = method(iter([question.message]), metadata=question.metadata, timeout=LONGEST)
        with suppress(grpc.aio.AioRpcError):
            async for _ in call:
                call.cancel()
                return grpc.StatusCode.OK, ""
    else:
        method = channel.unary_unary(INFER_PATH)  # type: ignore[call-arg]
        call = method(question.message, metadata=question.metadata, timeout=LONGEST)
    return await call.code(), await call.details() or ""


async def _lost(channel: grpc.aio.Channel) -> bool:
    """Whether its connection ended, of which the channel may hear after the call."""
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
