"""Follows all control planes: which ones Consul lists, and the newest report of each.

Acts: asyncio, grpc.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import grpc
import grpc.aio

from sidecar.consul.api import ConsulApi, ServiceEntry, missing_rights
from sidecar.control_planes.membership import Listing, Membership, PlaneKey, PlaneReports
from sidecar.runtime.addresses import join_address, split_address
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import SidecarError, Unavailable
from sidecar.runtime.latest import Latest
from sidecar.v1 import control_plane_pb2_grpc

_OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # http_proxy is not meant for local peers
    ("grpc.max_receive_message_length", -1),  # a reply may hold everything published
    # One whose machine is gone must not look connected.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)
_RETRY = 0.5  # seconds between attempts to reach a control plane
_PACE = 1.0  # seconds between two listings

T = TypeVar("T")
# Opens a stream of reports on a stub of a control plane.
OpenStream = Callable[[Any], AsyncIterator[T]]


class Directory(Protocol):
    """Where control planes are found."""

    async def listing(self) -> Listing:
        """Those that there are.

        Raises:
            SidecarError: it cannot be read.
        """


@dataclass(frozen=True, slots=True)
class SinglePlane:
    """One control plane whose `host:port` is known, such as that of a local mesh."""

    address: str

    async def listing(self) -> Listing:
        """That one."""
        host, port = split_address(self.address)
        return Listing((ServiceEntry("", self.address, "", host, port, (), {}, 1, 1, ()),))


@dataclass(frozen=True, slots=True)
class PlaneDirectory:
    """Where control planes are found: the service under which they register.

    `witness` is a service that certainly has instances, whatever happens to control planes.
    """

    consul: ConsulApi
    key: str
    witness: str

    async def listing(self) -> Listing:
        """All registered ones, healthy or not: one that Consul cannot reach may still serve Envoys.

        Raises:
            SidecarError: Consul does not answer, or its servers have no leader.
        """
        answer = await self.consul.health_service(self.key, consistent=True)
        if not answer.known_leader:
            raise Unavailable("Consul's servers have no leader")
        if answer.filtered:
            return Listing(answer.value, missing_rights(self.key))
        return Listing(answer.value, "" if answer.value else await self._why_empty())

    async def _why_empty(self) -> str:
        """Why an empty list may be wrong; "" if there really is no control plane."""
        if not await self.consul.sees_all(self.key):
            return missing_rights(self.key)
        if not (await self.consul.health_service(self.witness, consistent=True)).value:
            return f"Consul shows no instance of {self.witness} either: its catalog is not whole"
        return ""


class PlaneWatch(Generic[T]):
    """Follows the control planes while it runs; `reports` holds their newest reports."""

    def __init__(self, directory: Directory, open_stream: OpenStream[T], clock: Clock) -> None:
        self.reports: Latest[PlaneReports[T]] = Latest(PlaneReports())
        self._directory = directory
        self._open_stream = open_stream
        self._clock = clock
        self._membership: Membership[T] = Membership()

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                for key in await self._update_listing():
                    tasks.create_task(self._follow(key))
                await self._clock.sleep(_PACE)

    async def _update_listing(self) -> list[PlaneKey]:
        """List the control planes once; returns those that joined."""
        known = self._membership.members.keys()
        try:
            listing = await self._directory.listing()
            self._set(self._membership.listed(listing, self._clock.now()))
        except SidecarError as error:  # the Consul client has logged it
            self._set(self._membership.listing_failed(str(error)))
        return [key for key in self._membership.members if key not in known]

    async def _follow(self, key: PlaneKey) -> None:
        """Keep one control plane's newest report, reconnecting forever: it may come back."""
        _, host, port = key
        while True:
            async with stub_at(join_address(host, port)) as stub:
                try:
                    async for report in self._open_stream(stub):
                        self._set(self._membership.reported(key, report))
                except grpc.RpcError:
                    pass  # its last report stands; whether that suffices is the caller's decision
            self._set(self._membership.disconnected(key))
            await self._clock.sleep(_RETRY)

    def _set(self, membership: Membership[T]) -> None:
        self._membership = membership
        self.reports.set(membership.reports(self._clock.now()))


@asynccontextmanager
async def watching(
    directory: Directory, open_stream: OpenStream[T], clock: Clock
) -> AsyncGenerator[Latest[PlaneReports[T]]]:
    """The control planes' reports, while the context lasts."""
    watch = PlaneWatch(directory, open_stream, clock)
    running = asyncio.ensure_future(watch.run())
    try:
        yield watch.reports
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


@asynccontextmanager
async def stub_at(address: str) -> AsyncGenerator[Any]:
    """A stub of sidecar.v1.ControlPlaneService at `host:port`."""
    async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
        yield control_plane_pb2_grpc.ControlPlaneServiceStub(channel)  # type: ignore[no-untyped-call]
