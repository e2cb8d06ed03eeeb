"""Asking instances that have vanished from the catalog whether they serve, by their own health."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from enum import Enum

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar.runtime.addresses import join_address
from sidecar.runtime.clock import Clock
from sidecar.runtime.latest import Latest, first_of
from sidecar.xds.catalog.catalog import Instance
from sidecar.xds.catalog.retention import SelfReport

_TIMEOUT = 1.0  # seconds for one question: what serves answers in milliseconds
_PAUSE = 5.0  # seconds between questions to one instance
_JITTER = 0.2  # many control planes ask after the same loss
# Questions under way: a fleet that vanished must not be a flood, nor wait for the silent for long.
_AT_ONCE, _SHARE, _MOST = 8, 10, 64
_OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # http_proxy is not meant for neighbours
    ("grpc.use_local_subchannel_pool", 1),  # a refusal is heard anew, not remembered
)


class HealthReply(Enum):
    """An answer, or its absence."""

    SERVES = "serves"
    GONE = "gone"
    SILENCE = "silence"


Ask = Callable[[Instance], Awaitable[HealthReply]]


async def ask(instance: Instance) -> HealthReply:
    """What the health service of an instance's sidecar says; nothing is raised."""
    address = join_address(instance.address, instance.health_port)
    try:
        async with asyncio.timeout(_TIMEOUT):
            if await _is_refused(instance):
                return HealthReply.GONE
            async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
                request = health_pb2.HealthCheckRequest()
                answer = await health_pb2_grpc.HealthStub(channel).Check(request)
    except grpc.aio.AioRpcError as error:
        # A server that knows no such service is not the instance's sidecar.
        stranger = error.code() is grpc.StatusCode.UNIMPLEMENTED
        return HealthReply.GONE if stranger else HealthReply.SILENCE
    except (TimeoutError, OSError):
        return HealthReply.SILENCE
    serves = answer.status == health_pb2.HealthCheckResponse.SERVING
    return HealthReply.SERVES if serves else HealthReply.GONE


async def _is_refused(instance: Instance) -> bool:
    """Whether nobody listens, which gRPC does not tell apart from other trouble."""
    try:
        _, writer = await asyncio.open_connection(instance.address, instance.health_port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


class HealthQueries:
    """Hears those who are missing, again and again; `heard` holds what they say, by id.

    `news` is called when somebody was heard.
    """

    def __init__(self, ask: Ask, clock: Clock, news: Callable[[], None]) -> None:
        self.heard: dict[str, SelfReport] = {}
        self._missing: Latest[tuple[Instance, ...]] = Latest(())
        self._ask = ask
        self._clock = clock
        self._news = news

    def summon(self, missing: Iterable[Instance]) -> None:
        """Say who is missing now; what the others have said is forgotten."""
        self._missing.set(tuple(missing))
        unasked = SelfReport(asked=math.inf)
        self.heard = {each.id: self.heard.get(each.id, unasked) for each in self._missing.value}

    async def run(self) -> None:
        """Ask for ever."""
        while True:
            version = self._missing.version
            missing = self._missing.value
            places = asyncio.Semaphore(min(max(_AT_ONCE, len(missing) // _SHARE), _MOST))
            await asyncio.gather(*(self._hear(each, places) for each in missing))
            pause = self._clock.jitter(_PAUSE, _JITTER) if missing else None
            await first_of(self._clock, pause, self._missing.changed(version))

    async def _hear(self, instance: Instance, places: asyncio.Semaphore) -> None:
        async with places:
            if instance not in self._missing.value:
                return  # it came back meanwhile
            said = self.heard[instance.id]
            asked = min(said.asked, self._clock.now())
            self.heard[instance.id] = replace(said, asked=asked)
            word = await self._ask(instance)
        if instance not in self._missing.value:
            return
        said = self.heard[instance.id]
        if word is HealthReply.SERVES:
            said = replace(said, alive=self._clock.now(), gone=False)
        elif word is HealthReply.GONE:
            said = replace(said, gone=True)
        said = replace(said, silent=word is HealthReply.SILENCE)
        self.heard[instance.id] = said
        self._news()
