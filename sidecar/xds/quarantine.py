"""A third attempt under supervision: requests that went down with two instances are tried alone.

Envoy asks before it sends such a request again (`quarantine.lua`). It is then tried on one of the
two instances that went down with it, as soon as that is back: whatever it does, no third one goes
down. Who answers it proves its innocence.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import grpc
import grpc.aio
import structlog

from sidecar.latest import Latest
from sidecar.traffic.policy import Connection
from sidecar.xds.catalog import Catalog, Instance
from sidecar.xds.publication import Publication
from sidecar.xds.suspects import BOUND, Endpoint, Suspect, Suspects
from sidecar.xds.telemetry import ControlPlaneMetrics

SERVICE = "sidecar.v1.QuarantineService"
_METHOD = "/inference.GRPCInferenceService/ModelInfer"
# Seconds after which the next one is tried beside one that has neither been answered nor gone down.
_SETTLED = 2.0
_PAUSE = 0.1  # seconds before an instance that is not back is looked for again
_CONNECT = 1.0  # seconds
_LOST = 0.5  # seconds
_LONGEST = 300.0  # seconds in which a client without a deadline learns the outcome
_FORGET = 1.0  # seconds between looks at whose time is over
# Bytes of requests that wait at once.
_ROOM = 1 << 29
# Answers that may come from a server that has not begun to work on the request.
_INCONCLUSIVE = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
# Not the client's own, or about the way to this server.
_HOP = ("grpc-", "x-envoy-", "x-quarantine-", "x-triton-sidecar-", "x-forwarded-", "x-request-id")
_HOPS = {"te", "content-type", "user-agent"}


# An instance, and how its service is connected to.
_Way = tuple[Instance, Connection]


class Outcome(Enum):
    """What became of a trial."""

    ANSWERED = "answered"
    DOWN = "down"  # the connection was lost
    NOTHING = "nothing"  # not tried, or answered without having been worked on


@dataclass(frozen=True, slots=True)
class Question:
    """A request that Envoy holds back: what it asks, and the instances that went down with it."""

    fingerprint: str
    endpoints: tuple[Endpoint, ...]
    message: bytes
    metadata: tuple[tuple[str, str | bytes], ...]


@dataclass(eq=False, slots=True)
class _Trial:
    endpoint: Endpoint
    alone: bool = True


class Quarantine:
    """Tries suspects, one after the other; their fingerprints go to all Envoys."""

    def __init__(
        self,
        catalog: Latest[Catalog | None],
        publication: Publication,
        metrics: ControlPlaneMetrics,
    ) -> None:
        self._catalog = catalog
        self._published = publication.suspects
        self._clock = publication.clock
        self._suspects = Suspects(publication.edge.quarantine)
        self._lifetime = publication.edge.quarantine
        self._metrics = metrics
        self._log = structlog.get_logger()
        self._lane = asyncio.Lock()
        self._running: set[_Trial] = set()
        self._waiting = 0
        self._judged: Counter[str] = Counter()

    def handler(self) -> grpc.GenericRpcHandler:  # type: ignore[type-arg]
        """For the server: requests are as clients sent them, the outcome is in the metadata."""
        method = grpc.unary_unary_rpc_method_handler(self._serve)
        return grpc.method_handlers_generic_handler(SERVICE, {"Try": method})

    async def run(self) -> None:
        """Let go of those whose time is over, for ever."""
        while True:
            await self._clock.sleep(_FORGET)
            self._suspects.forget(self._clock.now(), self._judged)
            self._publish()

    async def judge(self, question: Question) -> tuple[str, str]:
        """Whether the request may go on: `go`, `refused` or `unknown`, and the reason in words."""
        found = self._suspects.accuse(question.fingerprint, question.endpoints, self._clock.now())
        self._publish()
        exclusive = False
        while found is not None and not found.guilty:
            if (back := self._back(found)) is None:
                await self._clock.sleep(_PAUSE)
            else:
                instance = back[0]
                outcome, alone = await self._in_turn(back, question, exclusive)
                self._conclude(question, instance, outcome, alone)
                exclusive = exclusive or outcome is Outcome.DOWN
                if outcome is not Outcome.ANSWERED:
                    await self._clock.sleep(_PAUSE)
            found = self._suspects.find(question.fingerprint)
        if found is None:
            return "go", ""
        left = max(1, round(found.until - self._clock.now()))
        names = " and ".join(sorted(self._names(found))) or f"{BOUND} instances"
        return "refused", (
            f"this request has taken down {names}; the same request is refused for another {left} s"
        )

    def _conclude(
        self, question: Question, instance: Instance, outcome: Outcome, alone: bool
    ) -> None:
        if outcome is Outcome.ANSWERED:
            self._suspects.acquit(question.fingerprint)
        elif outcome is Outcome.DOWN and alone:
            self._suspects.convict(question.fingerprint, self._clock.now())
            self._log.warning(
                "a request takes instances down: it is refused",
                fingerprint=question.fingerprint,
                bytes=len(question.message),
                last=instance.id,
                seconds=self._lifetime,
            )
        self._metrics.trials.labels(outcome.value).inc()
        self._publish()

    async def _in_turn(
        self, where: _Way, question: Question, exclusive: bool
    ) -> tuple[Outcome, bool]:
        """The outcome of a trial, and whether it was alone on the instance."""
        async with self._lane:
            known = self._suspects.find(question.fingerprint)
            if known is None or known.guilty:
                return Outcome.NOTHING, False
            trial = _Trial(where[0].endpoint)
            beside = [each for each in self._running if each.endpoint == trial.endpoint]
            if exclusive and beside:
                return Outcome.NOTHING, False
            for each in (trial, *beside) if beside else ():
                each.alone = False
            self._running.add(trial)
            task = asyncio.create_task(self._try(*where, question))
            try:
                await asyncio.wait([task], timeout=None if exclusive else _SETTLED)
            except asyncio.CancelledError:
                self._end(trial, task)
                raise
        try:
            return await task, trial.alone
        finally:
            self._end(trial, task)

    def _end(self, trial: _Trial, task: "asyncio.Task[Outcome]") -> None:
        task.cancel()
        self._running.discard(trial)

    async def _try(self, instance: Instance, connection: Connection, question: Question) -> Outcome:
        address = f"{instance.address}:{instance.port}"
        async with grpc.aio.insecure_channel(address, _options(connection)) as channel:
            try:
                await asyncio.wait_for(channel.channel_ready(), _CONNECT)
            except TimeoutError:
                return Outcome.NOTHING
            infer: Any = channel.unary_unary(_METHOD)  # type: ignore[call-arg]
            call = infer(question.message, metadata=question.metadata, timeout=_LONGEST)
            code = await call.code()
            if code is grpc.StatusCode.UNAVAILABLE and await _lost(channel):
                return Outcome.DOWN
            return Outcome.NOTHING if code in _INCONCLUSIVE else Outcome.ANSWERED

    async def _serve(self, message: bytes, context: Any) -> bytes:
        headers = dict(context.invocation_metadata())
        if self._waiting + len(message) > _ROOM:
            word, why = "unknown", ""
        else:
            question = _question(headers, message)
            self._waiting += len(message)
            self._judged[question.fingerprint] += 1
            try:
                async with asyncio.timeout(_LONGEST):
                    word, why = await self.judge(question)
            except (TimeoutError, OverflowError):
                word, why = "unknown", ""
            finally:
                self._waiting -= len(message)
                self._judged -= Counter([question.fingerprint])
        await context.send_initial_metadata((("x-quarantine", word), ("x-quarantine-why", why)))
        return b""

    def _back(self, suspect: Suspect) -> _Way | None:
        """An instance that went down with it and may get requests."""
        busy = {trial.endpoint for trial in self._running}
        there = [
            (each, connection)
            for each, connection in self._instances()
            if each.usable and each.endpoint in suspect.endpoints
        ]
        return min(there, key=lambda way: (way[0].endpoint in busy, way[0].id), default=None)

    def _names(self, suspect: Suspect) -> Iterator[str]:
        return (each.id for each, _ in self._instances() if each.endpoint in suspect.endpoints)

    def _instances(self) -> Iterator[_Way]:
        catalog = self._catalog.value
        for service in catalog.services if catalog else ():
            for instance in service.instances:
                yield instance, service.policy.connection

    def _publish(self) -> None:
        self._published.set(self._suspects.prints)


async def _lost(channel: grpc.aio.Channel) -> bool:
    """Whether its connection ended, of which the channel may hear after the call."""
    try:
        async with asyncio.timeout(_LOST):
            await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
    except TimeoutError:
        return False
    return True


def _question(headers: Mapping[str, str | bytes], message: bytes) -> Question:
    hosts = filter(None, str(headers.get("x-quarantine-hosts", "")).split(","))
    return Question(
        str(headers.get("x-quarantine-print", "")),
        tuple(_endpoint(host) for host in hosts),
        message,
        tuple(
            (name, value)
            for name, value in headers.items()
            if name not in _HOPS and not name.startswith(_HOP)
        ),
    )


def _endpoint(text: str) -> Endpoint:
    host, _, port = text.strip().rpartition(":")
    return host.strip("[]"), int(port)


def _options(connection: Connection) -> list[tuple[str, int]]:
    return [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        # A connection of its own, so that its loss is this server's.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.keepalive_time_ms", round(1000 * connection.keepalive_interval)),
        ("grpc.keepalive_timeout_ms", round(1000 * connection.keepalive_timeout)),
        ("grpc.http2.ping_timeout_ms", round(1000 * connection.keepalive_timeout)),
        ("grpc.http2.max_pings_without_data", 0),
    ]
