"""Asking instances that have vanished from the catalog whether they serve, by their own health."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from enum import Enum

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar.clock import Clock
from sidecar.latest import Latest, first_of
from sidecar.settings.values import join_address
from sidecar.xds.belief import Said, Testimonies
from sidecar.xds.catalog import Instance

_TIMEOUT = 1.0  # seconds for one question: what serves answers in milliseconds
_PAUSE = 5.0  # seconds between questions to one instance
_JITTER = 0.2  # many control planes ask after the same loss
_AT_ONCE = 8  # questions under way: a fleet that vanished must not be a flood
_OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # http_proxy is not meant for neighbours
    ("grpc.use_local_subchannel_pool", 1),  # a refusal is heard anew, not remembered
)


class Word(Enum):
    """An answer, or its absence."""

    SERVES = "serves"
    GONE = "gone"
    SILENCE = "silence"


Ask = Callable[[Instance], Awaitable[Word]]


async def ask(instance: Instance) -> Word:
    """What the health service of an instance's sidecar says; nothing is raised."""
    address = join_address(instance.address, instance.health_port)
    try:
        async with asyncio.timeout(_TIMEOUT):
            if await _is_refused(instance):
                return Word.GONE
            async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
                request = health_pb2.HealthCheckRequest()
                answer = await health_pb2_grpc.HealthStub(channel).Check(request)
    except grpc.aio.AioRpcError as error:
        # A server that knows no such service is not the instance's sidecar.
        stranger = error.code() is grpc.StatusCode.UNIMPLEMENTED
        return Word.GONE if stranger else Word.SILENCE
    except (TimeoutError, OSError):
        return Word.SILENCE
    serves = answer.status == health_pb2.HealthCheckResponse.SERVING
    return Word.SERVES if serves else Word.GONE


async def _is_refused(instance: Instance) -> bool:
    """Whether nobody listens, which gRPC does not tell apart from other trouble."""
    try:
        _, writer = await asyncio.open_connection(instance.address, instance.health_port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


class Hearing:
    """Hears those who are missing, again and again; `heard` holds what they say, by id.

    `news` is called when somebody was heard.
    """

    def __init__(self, ask: Ask, clock: Clock, news: Callable[[], None]) -> None:
        self.heard: Testimonies = {}
        self._missing: Latest[tuple[Instance, ...]] = Latest(())
        self._ask = ask
        self._clock = clock
        self._news = news
        self._places = asyncio.Semaphore(_AT_ONCE)

    def summon(self, missing: Iterable[Instance]) -> None:
        """Say who is missing now; what the others have said is forgotten."""
        self._missing.set(tuple(missing))
        ids = {instance.id for instance in self._missing.value}
        self.heard = {name: said for name, said in self.heard.items() if name in ids}

    async def run(self) -> None:
        """Ask for ever."""
        while True:
            version = self._missing.version
            missing = self._missing.value
            await asyncio.gather(*map(self._hear, missing))
            pause = self._clock.jitter(_PAUSE, _JITTER) if missing else None
            await first_of(self._clock, pause, self._missing.changed(version))

    async def _hear(self, instance: Instance) -> None:
        async with self._places:
            word = await self._ask(instance)
        if instance not in self._missing.value:
            return  # it came back meanwhile
        before = self.heard.get(instance.id, Said())
        if word is Word.SERVES:
            before = Said(alive=self._clock.now())
        elif word is Word.GONE:
            before = Said(before.alive, gone=True)
        self.heard = {**self.heard, instance.id: before}
        self._news()
