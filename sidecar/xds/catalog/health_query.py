"""Queries the sidecars of instances that vanished from the catalog whether they still serve.

Acts: asyncio, grpc.
"""

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

_TIMEOUT = 1.0  # seconds for one query: a healthy sidecar answers in milliseconds
_PAUSE = 5.0  # seconds between queries to one instance
_JITTER = 0.2  # many control planes query after the same loss
# Concurrent queries: a vanished fleet must not cause a flood, nor may silent ones delay the rest.
_AT_ONCE, _SHARE, _MOST = 8, 10, 64
_OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # http_proxy is not meant for local peers
    ("grpc.use_local_subchannel_pool", 1),  # each attempt dials again; a refusal is not cached
)


class HealthReply(Enum):
    """An answer, or its absence."""

    SERVES = "serves"
    GONE = "gone"
    SILENCE = "silence"


Ask = Callable[[Instance], Awaitable[HealthReply]]


async def ask(instance: Instance) -> HealthReply:
    """The answer of the health service of an instance's sidecar; raises nothing."""
    address = join_address(instance.address, instance.health_port)
    try:
        async with asyncio.timeout(_TIMEOUT):
            if await _is_refused(instance):
                return HealthReply.GONE
            async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
                request = health_pb2.HealthCheckRequest()
                answer = await health_pb2_grpc.HealthStub(channel).Check(request)
    except grpc.aio.AioRpcError as error:
        # A server without that service is not the instance's sidecar.
        foreign = error.code() is grpc.StatusCode.UNIMPLEMENTED
        return HealthReply.GONE if foreign else HealthReply.SILENCE
    except (TimeoutError, OSError):
        return HealthReply.SILENCE
    serves = answer.status == health_pb2.HealthCheckResponse.SERVING
    return HealthReply.SERVES if serves else HealthReply.GONE


async def _is_refused(instance: Instance) -> bool:
    """Whether nothing listens, which gRPC does not distinguish from other failures."""
    try:
        _, writer = await asyncio.open_connection(instance.address, instance.health_port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


class HealthQueries:
    """Queries the missing instances repeatedly; `reports` holds their answers by id.

    `news` is called after each answer.
    """

    def __init__(self, ask: Ask, clock: Clock, news: Callable[[], None]) -> None:
        self.reports: dict[str, SelfReport] = {}
        self._missing: Latest[tuple[Instance, ...]] = Latest(())
        self._ask = ask
        self._clock = clock
        self._news = news

    def set_missing(self, missing: Iterable[Instance]) -> None:
        """Set the missing instances; the reports of all others are forgotten."""
        self._missing.set(tuple(missing))
        unasked = SelfReport(asked=math.inf)
        self.reports = {each.id: self.reports.get(each.id, unasked) for each in self._missing.value}

    async def run(self) -> None:
        """Query until cancelled."""
        while True:
            version = self._missing.version
            missing = self._missing.value
            places = asyncio.Semaphore(min(max(_AT_ONCE, len(missing) // _SHARE), _MOST))
            await asyncio.gather(*(self._query(each, places) for each in missing))
            pause = self._clock.jitter(_PAUSE, _JITTER) if missing else None
            await first_of(self._clock, pause, self._missing.changed(version))

    async def _query(self, instance: Instance, places: asyncio.Semaphore) -> None:
        async with places:
            if instance not in self._missing.value:
                return  # it is back
            report = self.reports[instance.id]
            asked = min(report.asked, self._clock.now())
            self.reports[instance.id] = replace(report, asked=asked)
            reply = await self._ask(instance)
        if instance not in self._missing.value:
            return
        report = self.reports[instance.id]
        if reply is HealthReply.SERVES:
            report = replace(report, alive=self._clock.now(), gone=False)
        elif reply is HealthReply.GONE:
            report = replace(report, gone=True)
        report = replace(report, silent=reply is HealthReply.SILENCE)
        self.reports[instance.id] = report
        self._news()
