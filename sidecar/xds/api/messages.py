"""Converts the control plane's state to messages of sidecar.v1.ControlPlaneService."""

from collections.abc import Iterable, Iterator
from typing import Any

from sidecar.v1 import control_plane_pb2
from sidecar.xds.api.explain import Explanation
from sidecar.xds.catalog.catalog import Instance
from sidecar.xds.config.endpoints import Assignment
from sidecar.xds.config.snapshot import ORDER, Resource, Snapshot
from sidecar.xds.envoys.client_status import Client, TypeState


def clients(found: Iterable[Client], waiting: int) -> Any:
    """A ListClientsResponse."""
    return control_plane_pb2.ListClientsResponse(clients=map(_client, found), waiting=waiting)


def snapshot(found: Snapshot | None, age: float, bodies: bool, status: str) -> Any:
    """A GetSnapshotResponse; `age` in seconds, with the resources themselves if `bodies`."""
    if found is None:
        return control_plane_pb2.GetSnapshotResponse(catalog_status=status)
    return control_plane_pb2.GetSnapshotResponse(
        catalog_status=status,
        version=found.version,
        age_seconds=age,
        resources=[
            _resource(type_url, each, bodies)
            for type_url in ORDER
            for each in found.of(type_url).values()
        ],
        clusters=[
            control_plane_pb2.PublishedCluster(name=name, endpoints=_endpoints(each))
            for name, each in found.assignments.items()
        ],
    )


def placement(service: str, found: Explanation, since: float | None) -> Any:
    """A Placement; `since` in Unix seconds."""
    place = found.placement
    return control_plane_pb2.Placement(
        service=service,
        cluster=found.cluster,
        listed=place is not None,
        priority=place.priority if place else None,
        weight=place.weight if place else 0,
        since=since or 0.0,
        why=found.why,
    )


def _client(found: Client) -> Any:
    return control_plane_pb2.Client(
        node=found.node,
        protocol=found.protocol,
        connected_seconds=found.connected,
        lag_seconds=found.lag,
        types=map(_type, found.types),
    )


def _type(state: TypeState) -> Any:
    message = control_plane_pb2.ClientType(
        type_url=state.type_url,
        accepted_version=state.accepted,
        pending=state.pending,
        behind=[
            control_plane_pb2.PendingResource(
                name=each.resource.name,
                published_version=each.resource.version,
                held_version=each.held,
                standing=each.status,
            )
            for each in state.behind
        ],
    )
    if state.nack is not None:
        message.refused_version = state.nack.version
        message.refused_reason = state.nack.reason
        message.refused_at = state.nack.at
    return message


def _resource(type_url: str, found: Resource, bodies: bool) -> Any:
    return control_plane_pb2.PublishedResource(
        type_url=type_url,
        name=found.name,
        version=found.version,
        body=found.body if bodies else None,
    )


def _endpoints(assignment: Assignment) -> Iterator[Any]:
    for priority, group in enumerate(assignment.priorities):
        yield from (_endpoint(each, priority) for each in group)
    yield from (_endpoint(each, None) for each in assignment.withdrawn)


def _endpoint(instance: Instance, priority: int | None) -> Any:
    return control_plane_pb2.PublishedEndpoint(
        instance=instance.id,
        address=instance.address,
        port=instance.port,
        priority=priority,
        weight=instance.weight,
        health=instance.health.value,
        draining=instance.draining,
    )
