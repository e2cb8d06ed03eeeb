"""What sidecars and operators ask a control plane about its Envoys."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from sidecar.latest import Latest
from sidecar.v1 import control_plane_pb2, control_plane_pb2_grpc
from sidecar.xds.admin import EnvoyCounters
from sidecar.xds.catalog import Catalog
from sidecar.xds.closing import until
from sidecar.xds.envoys import Envoys
from sidecar.xds.publication import Publication


class InquiryService(control_plane_pb2_grpc.ControlPlaneServiceServicer):
    """sidecar.v1.ControlPlaneService."""

    def __init__(
        self,
        catalog: Latest[Catalog | None],
        publication: Publication,
        envoys: Envoys,
        counters: EnvoyCounters,
        closing: asyncio.Event,
    ) -> None:
        self._catalog = catalog
        self._publication = publication
        self._envoys = envoys
        self._counters = counters
        self._closing = closing

    async def WatchDrain(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Follow an instance that withdraws."""
        statuses = self._envoys.watch_drain(self._publication, request.service, request.instance)
        async for status in until(self._closing, statuses):
            yield control_plane_pb2.WatchDrainResponse(
                envoys=status.envoys,
                envoys_acknowledged=status.acknowledged,
                envoys_reported=status.reported,
                requests_in_flight=status.in_flight,
            )

    async def WatchPrimary(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Follow who is preferred."""
        statuses = self._envoys.watch_primary(self._catalog, self._publication, request.service)
        async for status in until(self._closing, statuses):
            yield control_plane_pb2.WatchPrimaryResponse(
                followed=status.followed,
                instance=status.instance,
                epoch=status.epoch,
                envoys=status.envoys,
                envoys_acknowledged=status.acknowledged,
            )

    async def GetFailures(self, request: Any, context: Any) -> Any:
        """What Envoys have counted."""
        counts = await self._counters.failures(request.service, request.seconds)
        if counts is None:
            return control_plane_pb2.GetFailuresResponse(measured=False)
        return control_plane_pb2.GetFailuresResponse(
            measured=True, requests=counts.requests, failures=counts.failures
        )
