"""Queries to control planes: all that are registered, or one by its address.

Acts: asyncio.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from sidecar.control_planes import rpc
from sidecar.control_planes.watch import PlaneDirectory
from sidecar.operator import operator_client
from sidecar.operator.operator_client import OperatorClient
from sidecar.runtime.addresses import join_address
from sidecar.runtime.errors import NotFound, Rejected, SidecarError, Unavailable
from sidecar.v1 import control_plane_pb2

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PlaneRef:
    """A control plane: its id in Consul, or its address if it was given by address."""

    id: str
    address: str


@dataclass(frozen=True, slots=True)
class PlaneReply(Generic[T]):
    """A control plane's response; None if it gave none, and `why`."""

    plane: PlaneRef
    response: T | None
    why: str = ""


Replies = tuple[PlaneReply[T], ...]


def at(address: str) -> tuple[PlaneRef, ...]:
    """The control plane at an address."""
    return (PlaneRef(address, address),)


async def registered(client: OperatorClient) -> tuple[PlaneRef, ...]:
    """All control planes in Consul, healthy or not.

    Raises:
        NotFound: there is none.
        Rejected: Consul shows none, but may be hiding some.
        SidecarError: Consul does not answer or refuses.
    """
    found = await PlaneDirectory(client.consul, client.control_plane, client.service).listing()
    if not found.planes and found.incomplete:
        raise Rejected(found.incomplete)
    if not found.planes:
        raise NotFound(f"no control plane is registered as {client.control_plane}")
    return tuple(PlaneRef(each.id, join_address(each.address, each.port)) for each in found.planes)


async def clients(asked: tuple[PlaneRef, ...]) -> Replies[Any]:
    """The Envoys of each control plane, as sidecar.v1.ListClientsResponse.

    Raises:
        Unavailable: none of them answers.
    """
    return await _all(asked, lambda stub: stub.ListClients(control_plane_pb2.ListClientsRequest()))


async def snapshots(asked: tuple[PlaneRef, ...], bodies: bool = False) -> Replies[Any]:
    """What each control plane publishes, as sidecar.v1.GetSnapshotResponse.

    Raises:
        Unavailable: none of them answers.
    """
    request = control_plane_pb2.GetSnapshotRequest(bodies=bodies)
    return await _all(asked, lambda stub: stub.GetSnapshot(request))


async def explanations(asked: tuple[PlaneRef, ...], service: str, instance: str) -> Replies[Any]:
    """Why an instance has its place, as sidecar.v1.ExplainResponse.

    Without a `service`, the instance is looked up in all services.

    Raises:
        NotFound: no control plane that answers knows it.
        Unavailable: none of them answers.
    """
    request = control_plane_pb2.ExplainRequest(service=service, instance=instance)
    found: Replies[Any] = await _all(asked, lambda stub: stub.Explain(request))
    if not any(reply.response and reply.response.placements for reply in found):
        of = f" of {service}" if service else ""
        raise NotFound(f"no control plane knows an instance {instance!r}{of}")
    return found


async def settling(client: OperatorClient, found: Replies[Any], instance: str) -> float:
    """Seconds that an explained instance must still settle, 0 for none.

    The explanation is complete without it, so 0 also where Consul does not answer.
    """
    services = {
        each.service for reply in found if reply.response for each in reply.response.placements
    }
    left = [0.0]
    for service in sorted(services):
        with suppress(SidecarError):
            seen = await operator_client.read_status(replace(client, service=service))
            left += [seen.settling(each) for each in seen.candidates if each.id == instance]
    return max(left)


async def _all(
    asked: tuple[PlaneRef, ...], question: Callable[[Any], Awaitable[T]]
) -> tuple[PlaneReply[T], ...]:
    found = await asyncio.gather(*(_one(plane, question) for plane in asked))
    if all(reply.response is None for reply in found):
        raise Unavailable("\n".join(reply.why for reply in found))
    return tuple(found)


async def _one(plane: PlaneRef, question: Callable[[Any], Awaitable[T]]) -> PlaneReply[T]:
    try:
        return PlaneReply(plane, await rpc.ask(plane.address, question))
    except SidecarError as error:
        return PlaneReply(plane, None, str(error))
