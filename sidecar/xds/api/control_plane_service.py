"""sidecar.v1.ControlPlaneService: answers sidecars and operators about a control plane's Envoys.

Acts: asyncio.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from sidecar.runtime.latest import Latest
from sidecar.v1 import control_plane_pb2, control_plane_pb2_grpc
from sidecar.xds.ads.shutdown import until
from sidecar.xds.api import messages
from sidecar.xds.api.explain import RetainedState, explain
from sidecar.xds.catalog.catalog import Catalog
from sidecar.xds.envoys.client_status import Client, client
from sidecar.xds.envoys.drain_status import DrainStatus
from sidecar.xds.envoys.envoy_stats import EnvoyCounters
from sidecar.xds.envoys.envoy_streams import Envoys
from sidecar.xds.envoys.primary_status import PrimaryStatus
from sidecar.xds.publication import Publication


class ControlPlaneView:
    """A read-only view of the catalog, the publication and the Envoys, for the service."""

    def __init__(
        self,
        catalog: Latest[Catalog | None],
        publication: Publication,
        envoys: Envoys,
        counters: EnvoyCounters,
        retained: Callable[[str], RetainedState],
        waiting: Callable[[], int],
        status: Callable[[], str],
    ) -> None:
        self.counters = counters
        self.waiting = waiting
        self._catalog = catalog
        self._publication = publication
        self._envoys = envoys
        self._retained = retained
        self._status = status

    def drain(self, service: str, instance: str) -> AsyncIterator[DrainStatus]:
        """The progress of an instance's withdrawal, now and after each change; never ends."""
        return self._envoys.watch_drain(self._publication, service, instance)

    def primary(self, service: str) -> AsyncIterator[PrimaryStatus]:
        """The primary and how many Envoys follow it, now and after each change; never ends."""
        return self._envoys.watch_primary(self._catalog, self._publication, service)

    def clients(self) -> list[Client]:
        """The connected Envoys, sorted by node id."""
        snapshot, now = self._publication.snapshot.value, self._publication.clock.now()
        streams = sorted(self._envoys.streams, key=lambda stream: (stream.node, stream.since))
        return [client(stream, snapshot, now) for stream in streams]

    def snapshot(self, bodies: bool) -> Any:
        """The published snapshot."""
        age = self._publication.clock.now() - self._publication.changed_at
        return messages.snapshot(self._publication.snapshot.value, age, bodies, self._status())

    def placements(self, service: str, instance: str) -> Iterator[Any]:
        """An instance's placements with their reasons, in one service or in all ("")."""
        catalog, snapshot = self._publication.built, self._publication.snapshot.value
        if catalog is None or snapshot is None:
            return
        clock = self._publication.clock
        for each in catalog.services:
            if service not in ("", each.name):
                continue
            retained = self._retained(each.name)
            lingering, known = self._publication.lingering.value, snapshot.assignments
            for found in explain(each, known, retained, instance, catalog.zone, lingering):
                at = self._publication.placed_since(found.cluster, instance)
                since = None if at is None else clock.wall() - (clock.now() - at)
                yield messages.placement(each.name, found, since)


class ControlPlaneService(control_plane_pb2_grpc.ControlPlaneServiceServicer):
    """sidecar.v1.ControlPlaneService."""

    def __init__(self, view: ControlPlaneView, closing: asyncio.Event) -> None:
        self._view = view
        self._closing = closing

    async def WatchDrain(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Follow an instance that withdraws."""
        statuses = self._view.drain(request.service, request.instance)
        async for status in until(self._closing, statuses):
            yield control_plane_pb2.WatchDrainResponse(
                envoys=status.envoys,
                envoys_acknowledged=status.acknowledged,
                envoys_reported=status.reported,
                requests_in_flight=status.in_flight,
                nodes=status.nodes,
            )

    async def WatchPrimary(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Follow the primary."""
        statuses = self._view.primary(request.service)
        async for status in until(self._closing, statuses):
            yield control_plane_pb2.WatchPrimaryResponse(
                followed=status.followed,
                instance=status.instance,
                epoch=status.epoch,
                envoys=status.envoys,
                envoys_acknowledged=status.acknowledged,
            )

    async def GetFailures(self, request: Any, context: Any) -> Any:
        """The failures that Envoys have counted."""
        counts = await self._view.counters.failures(request.service, request.seconds)
        if counts is None:
            return control_plane_pb2.GetFailuresResponse(measured=False)
        return control_plane_pb2.GetFailuresResponse(
            measured=True, requests=counts.requests, failures=counts.failures
        )

    async def ListClients(self, request: Any, context: Any) -> Any:
        """The connected Envoys."""
        found = self._view.clients()
        return messages.clients(found, self._view.waiting())

    async def GetSnapshot(self, request: Any, context: Any) -> Any:
        """The published snapshot."""
        return self._view.snapshot(request.bodies)

    async def Explain(self, request: Any, context: Any) -> Any:
        """Why an instance gets requests, or none."""
        found = self._view.placements(request.service, request.instance)
        return control_plane_pb2.ExplainResponse(placements=found)
