"""One whole configuration for Envoy, immutable, with versions by content.

After go-control-plane's `Snapshot`: a set of resources that belong together, checked as a set.
Equal content has the same version on every control plane, so that an Envoy which reconnects to
another one is told nothing new.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage

from sidecar.xds import resources
from sidecar.xds.catalog import Catalog, Instance
from sidecar.xds.endpoints import Assignment, assign
from sidecar.xds.policy import TrafficPolicy

_PREFIX = "type.googleapis.com/envoy.config."
CLUSTER = _PREFIX + "cluster.v3.Cluster"
ENDPOINT = _PREFIX + "endpoint.v3.ClusterLoadAssignment"
LISTENER = _PREFIX + "listener.v3.Listener"
ROUTE = _PREFIX + "route.v3.RouteConfiguration"
# Make before break: what is referred to goes out before what refers to it.
ORDER = (CLUSTER, ENDPOINT, LISTENER, ROUTE)


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource, serialised once; its version is a digest of that."""

    name: str
    version: str
    body: AnyMessage


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """All resources by type and name. Snapshots with equal content are equal.

    `assignments` says the same as the EDS resources, for people and for drains.
    """

    resources: Mapping[str, Mapping[str, Resource]]
    assignments: Mapping[str, Assignment]
    services: tuple[str, ...]
    version: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Snapshot) and other.version == self.version

    def __hash__(self) -> int:
        return hash(self.version)

    def of(self, type_url: str) -> Mapping[str, Resource]:
        """The resources of a type by name; none of a type that is not served."""
        return self.resources.get(type_url, {})

    def consistent(self) -> None:
        """Check that every reference is met.

        Raises:
            ValueError: naming the reference that is not.
        """
        strangers = self.of(ENDPOINT).keys() - self.of(CLUSTER).keys()
        if strangers:
            raise ValueError(f"endpoints of {min(strangers)!r}: no such cluster")
        unserved = set(self.services) - self.of(CLUSTER).keys()
        if unserved:
            raise ValueError(f"route to {min(unserved)!r}: no such cluster")
        if self.of(LISTENER) and resources.ROUTES not in self.of(ROUTE):
            raise ValueError(f"listener refers to routes {resources.ROUTES!r}: there are none")

    def routes_to(self, service: str, instance_id: str) -> bool:
        """Whether the instance may get new requests."""
        assignment = self.assignments.get(service)
        return assignment is not None and instance_id in assignment.routable

    def prefers(self, service: str, instance_id: str) -> bool:
        """Whether the instance, and no other one, is the first that gets requests."""
        assignment = self.assignments.get(service)
        first = assignment.priorities[:1] if assignment else ()
        return [[instance.id for instance in group] for group in first] == [[instance_id]]

    def find(self, service: str, instance_id: str) -> Instance | None:
        """The instance, if it is among the service's endpoints."""
        assignment = self.assignments.get(service)
        return assignment.find(instance_id) if assignment else None


def build(catalog: Catalog, policy: TrafficPolicy) -> Snapshot:
    """Everything that Envoy needs to know of the catalog.

    A service that is not settled gets its cluster and route, but nothing is said about its
    endpoints: an Envoy that knows some keeps them.
    """
    services = tuple(service.name for service in catalog.services)
    assignments = {service.name: assign(service) for service in catalog.services if service.settled}
    by_type = {
        CLUSTER: _pack((name, resources.cluster(name, policy)) for name in services),
        ENDPOINT: _pack(
            (name, resources.load_assignment(assignment))
            for name, assignment in assignments.items()
        ),
        LISTENER: _pack([(resources.LISTENER, resources.listener(policy))]),
        ROUTE: _pack([(resources.ROUTES, resources.routes(services, policy))]),
    }
    snapshot = Snapshot(
        resources=MappingProxyType(by_type),
        assignments=MappingProxyType(assignments),
        services=services,
        version=digest(digest_of(by_type[type_url].values()).encode() for type_url in ORDER),
    )
    snapshot.consistent()
    return snapshot


def digest_of(found: Iterable[Resource]) -> str:
    """The version of a set of resources, whatever their order."""
    pairs = sorted((resource.name, resource.version) for resource in found)
    return digest(f"{name}\0{version}\n".encode() for name, version in pairs)


def digest(parts: Iterable[bytes]) -> str:
    """Sixteen hexadecimal digits, a matter of the content alone."""
    whole = hashlib.blake2b(digest_size=8)
    for part in parts:
        whole.update(part)
    return whole.hexdigest()


def _pack(named: Iterable[tuple[str, Any]]) -> Mapping[str, Resource]:
    packed = {}
    for name, message in named:
        body = AnyMessage()
        body.Pack(message, deterministic=True)
        packed[name] = Resource(name, digest([body.value]), body)
    return MappingProxyType(packed)
