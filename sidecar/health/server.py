"""The sidecar's grpc.health.v1 service.

The stock asyncio servicer starts as SERVING and writes to watchers while it holds its lock, so a
watcher that does not read delays every change. This one reads a `Latest` cell: each watcher gets
the newest status and delays no other.
Source of the protocol: https://github.com/grpc/grpc/blob/master/doc/health-checking.md

Acts: grpc.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar.runtime.latest import Latest
from sidecar.verdict.verdict import Verdict

# The service name for the sidecar itself: SERVING as long as it can answer at all.
LIVENESS = "sidecar.v1.Liveness"

_Status = health_pb2.HealthCheckResponse


class HealthServicer(health_pb2_grpc.HealthServicer):
    """Serves the verdict as `""`, under one name per model, and as `LIVENESS`.

    `permitted` is called for each answer, because a lease ends by the clock before any loop
    notices. There is no answer until the first evidence: a restarted sidecar says nothing against a
    Triton that may have been serving all along.
    """

    def __init__(
        self, verdict: Latest[Verdict], models: frozenset[str], permitted: Callable[[], bool]
    ) -> None:
        self._verdict = verdict
        self._models = models
        self._permitted = permitted

    async def Check(self, request: Any, context: Any) -> Any:
        """The status, once it is known; NOT_FOUND for an unknown service."""
        while not self._is_known(request.service, self._verdict.value):
            await self._verdict.changed(self._verdict.version)
        status = self._status(request.service, self._verdict.value)
        if status == _Status.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service {request.service!r}")
        return _Status(status=status)

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """The status and its changes; an unknown service stays SERVICE_UNKNOWN."""
        last = None
        async for verdict in self._verdict:
            if last is None and not self._is_known(request.service, verdict):
                continue
            status = self._status(request.service, verdict)
            if status != last:
                yield _Status(status=status)
            last = status

    def _is_known(self, service: str, verdict: Verdict) -> bool:
        """Whether the service's status is known."""
        is_subject = service == "" or service in self._models
        return not (is_subject and verdict.unproven and self._permitted())

    def _status(self, service: str, verdict: Verdict) -> int:
        if service == LIVENESS:
            serving = True
        elif service == "":
            serving = verdict.serving and self._permitted()
        elif service in self._models:
            serving = service in verdict.models and self._permitted()
        else:
            return int(_Status.SERVICE_UNKNOWN)
        return int(_Status.SERVING if serving else _Status.NOT_SERVING)


def add_to(
    server: grpc.aio.Server,
    verdict: Latest[Verdict],
    models: frozenset[str],
    permitted: Callable[[], bool] = lambda: True,
) -> None:
    """Add grpc.health.v1 to a server."""
    servicer = HealthServicer(verdict, models, permitted)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
