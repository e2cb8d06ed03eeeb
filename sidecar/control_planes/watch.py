"""Following all control planes: who they are, as Consul lists them, and the newest word of each."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio

from sidecar.consul.api import ConsulApi, missing_rights
from sidecar.control_planes.membership import Heard, Listing, Membership, Name
from sidecar.runtime.addresses import join_address
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import SidecarError, Unavailable
from sidecar.runtime.latest import Latest
from sidecar.v1 import control_plane_pb2_grpc

_OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # for http_proxy is not meant for neighbours
    ("grpc.max_receive_message_length", -1),  # all that is published may be asked for
    # One whose machine has gone must not look as if it spoke still.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)
_RETRY = 0.5  # seconds between attempts to reach a control plane
_PACE = 1.0  # seconds between two looks at who they are

T = TypeVar("T")
# What a control plane says to one who has a stub of it, until its stream ends.
Say = Callable[[Any], AsyncIterator[T]]


@dataclass(frozen=True, slots=True)
class Register:
    """Where the control planes are found: the service under which they are registered.

    `witness` is a service that has instances for sure, whatever becomes of control planes.
    """

    consul: ConsulApi
    name: str
    witness: str

    async def listing(self) -> Listing:
        """All that are registered, healthy or not: one that Consul cannot reach may serve Envoys.

        Raises:
            SidecarError: Consul does not answer, or its servers have no leader.
        """
        answer = await self.consul.health_service(self.name, consistent=True)
        if not answer.known_leader:
            raise Unavailable("Consul's servers have no leader")
        if answer.filtered:
            return Listing(answer.value, missing_rights(self.name))
        return Listing(answer.value, "" if answer.value else await self._why_empty())

    async def _why_empty(self) -> str:
        """What else than that there is none would explain an empty list; nothing if nothing."""
        if not await self.consul.sees_all(self.name):
            return missing_rights(self.name)
        if not (await self.consul.health_service(self.witness, consistent=True)).value:
            return f"Consul shows no instance of {self.witness} either: its catalog is not whole"
        return ""


class PlaneWatch(Generic[T]):
    """Follows them while it runs; `heard` is what there is to go by."""

    def __init__(self, register: Register, say: Say[T], clock: Clock) -> None:
        self.heard: Latest[Heard[T]] = Latest(Heard())
        self._register = register
        self._say = say
        self._clock = clock
        self._membership: Membership[T] = Membership()

    async def run(self) -> None:
        """Follow for ever."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                for name in await self._look():
                    tasks.create_task(self._follow(name))
                await self._clock.sleep(_PACE)

    async def _look(self) -> list[Name]:
        """Look once who they are; gives those who have joined."""
        known = self._membership.members.keys()
        try:
            listing = await self._register.listing()
            self._take(self._membership.listed(listing, self._clock.now()))
        except SidecarError as error:  # the door has reported it
            self._take(self._membership.doubted(str(error)))
        return [name for name in self._membership.members if name not in known]

    async def _follow(self, name: Name) -> None:
        """Keep the word of one as it says, reconnecting for ever: it may come back."""
        _, host, port = name
        while True:
            async with stub_at(join_address(host, port)) as stub:
                try:
                    async for word in self._say(stub):
                        self._take(self._membership.said(name, word))
                except grpc.RpcError:
                    pass  # its last word stands; if it was not the one hoped for, others decide
            self._take(self._membership.silent(name))
            await self._clock.sleep(_RETRY)

    def _take(self, membership: Membership[T]) -> None:
        self._membership = membership
        self.heard.set(membership.heard(self._clock.now()))


@asynccontextmanager
async def watching(
    register: Register, say: Say[T], clock: Clock
) -> AsyncGenerator[Latest[Heard[T]]]:
    """What the control planes say, while the context lasts."""
    watch = PlaneWatch(register, say, clock)
    running = asyncio.ensure_future(watch.run())
    try:
        yield watch.heard
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


@asynccontextmanager
async def stub_at(address: str) -> AsyncGenerator[Any]:
    """A stub of sidecar.v1.ControlPlaneService at `host:port`."""
    async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
        yield control_plane_pb2_grpc.ControlPlaneServiceStub(channel)  # type: ignore[no-untyped-call]
