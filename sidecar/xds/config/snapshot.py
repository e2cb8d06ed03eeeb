"""One complete configuration for Envoy, immutable, versioned by content. Pure.

Modelled on go-control-plane's `Snapshot`: a set of resources that belong together, checked as a
set. Equal content has the same version on every control plane, so that an Envoy that reconnects to
another one gets nothing new.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage

from sidecar.traffic.policy import Mode, TrafficPolicy
from sidecar.xds.catalog.catalog import Catalog, Instance, ServiceCatalog
from sidecar.xds.catalog.models import listed_models, model_table
from sidecar.xds.config import clusters as envoy_clusters
from sidecar.xds.config import routes
from sidecar.xds.config.capabilities import Capabilities
from sidecar.xds.config.cluster_names import generation
from sidecar.xds.config.edge import Edge
from sidecar.xds.config.endpoints import Assignment, assign, service_of
from sidecar.xds.config.filters.quarantine_filter import Watchlist, of_service
from sidecar.xds.config.filters.sequence_filter import ill
from sidecar.xds.config.lingering import FormerCluster, Lingering, clusters
from sidecar.xds.config.no_healthy_upstream import waits
from sidecar.xds.config.routes import Routing

_PREFIX = "type.googleapis.com/envoy."
RUNTIME = _PREFIX + "service.runtime.v3.Runtime"
CLUSTER = _PREFIX + "config.cluster.v3.Cluster"
ENDPOINT = _PREFIX + "config.endpoint.v3.ClusterLoadAssignment"
LISTENER = _PREFIX + "config.listener.v3.Listener"
ROUTE = _PREFIX + "config.route.v3.RouteConfiguration"
# Make before break: a referenced resource goes out before what refers to it.
ORDER = (RUNTIME, CLUSTER, ENDPOINT, LISTENER, ROUTE)
# Modes in which the primary gets requests because it is primary.
_LED = (Mode.ACTIVE_STANDBY, Mode.STRICT)
_NONE: Lingering = MappingProxyType({})
_NO_VARIANTS: Mapping[Capabilities, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource, serialised once; its version is a digest of the bytes."""

    name: str
    version: str
    body: AnyMessage


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """All resources by type and name. Snapshots with equal content are equal.

    They have only the plain fields; `variants` holds, by type, what Envoys with more capabilities
    get instead. `assignments` has by cluster the content of the EDS resources, for people and for
    drains. The services in `led` send their requests to the primary.
    """

    resources: Mapping[str, Mapping[str, Resource]]
    assignments: Mapping[str, Assignment]
    services: tuple[str, ...]
    led: frozenset[str]
    routed: tuple[str, ...]
    version: str
    variants: Mapping[Capabilities, Mapping[str, Mapping[str, Resource]]]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Snapshot) and other.version == self.version

    def __hash__(self) -> int:
        return hash(self.version)

    def of(self, type_url: str) -> Mapping[str, Resource]:
        """The resources of a type by name; empty for a type that is not served."""
        return self.resources.get(type_url, {})

    def adapted_to(self, capabilities: Capabilities) -> "Snapshot":
        """The same with the fields of some capabilities. The version stays, as the meaning does."""
        own = self.variants.get(capabilities)
        if own is None:
            return self
        adapted = MappingProxyType({**self.resources, **own})
        return replace(self, resources=adapted, variants=_NO_VARIANTS)

    def part(self, type_url: str, names: Iterable[str]) -> "Snapshot":
        """The part about some resources of a type, for a caller that keeps it without the rest.

        The version is that of the whole.
        """
        found = {name: self.of(type_url)[name] for name in names}
        every = self.assignments if type_url == ENDPOINT else {}
        assignments = {name: every[name] for name in found if name in every}
        return replace(
            self,
            resources=MappingProxyType({type_url: found}),
            assignments=MappingProxyType(assignments),
            routed=self.routed if type_url == ROUTE else (),
            variants=_NO_VARIANTS,
        )

    def consistent(self) -> None:
        """Check that every reference is met.

        Raises:
            ValueError: naming the reference that is not.
        """
        strangers = self.of(ENDPOINT).keys() - self.of(CLUSTER).keys()
        if strangers:
            raise ValueError(f"endpoints of {min(strangers)!r}: no such cluster")
        unserved = set(self.routed) - self.of(CLUSTER).keys()
        if unserved:
            raise ValueError(f"route to {min(unserved)!r}: no such cluster")
        if self.of(LISTENER) and routes.ROUTES not in self.of(ROUTE):
            raise ValueError(f"listener refers to routes {routes.ROUTES!r}: there are none")

    def routes_to(self, service: str, instance_id: str) -> bool:
        """Whether the instance may get new requests."""
        return routes_to(self._of_service(service), instance_id)

    def prefers(self, service: str, instance_id: str) -> bool:
        """Whether the instance gets what a primary gets."""
        found = [self.assignments[name] for name in self.choices(service)]
        return prefers(found, service in self.led, instance_id)

    def choices(self, service: str) -> tuple[str, ...]:
        """The service's clusters that routes lead to, as far as their endpoints are known."""
        own = (name for name in self.routed if service_of(name) == service)
        return tuple(name for name in own if name in self.assignments)

    def clusters(self, service: str) -> tuple[str, ...]:
        """The service's clusters whose endpoints are known, lingering ones included."""
        return tuple(name for name in self.assignments if service_of(name) == service)

    def find(self, service: str, instance_id: str) -> Instance | None:
        """The instance, if it is among the service's endpoints."""
        listed = (found.find(instance_id) for found in self._of_service(service))
        return next((instance for instance in listed if instance), None)

    def _of_service(self, service: str) -> list[Assignment]:
        return [self.assignments[name] for name in self.clusters(service)]


def routes_to(assignments: Iterable[Assignment], instance_id: str) -> bool:
    """Whether the instance may get new requests through any of a service's assignments."""
    return any(instance_id in found.routable for found in assignments)


def prefers(assignments: Iterable[Assignment], led: bool, instance_id: str) -> bool:
    """Whether the instance gets what a primary gets through a service's assignments.

    It alone is the first choice, on either side of a release; for a service that is not `led`,
    where the role moves no requests, it is enough that it may get some.
    """
    if not led:
        return routes_to(assignments, instance_id)
    firsts = (found.priorities[0] for found in assignments if found.priorities)
    return any(len(first) == 1 and first[0].id == instance_id for first in firsts)


def build(
    catalog: Catalog,
    edge: Edge,
    lingering: Lingering = _NONE,
    suspects: Watchlist = frozenset(),
) -> Snapshot:
    """Everything that Envoy needs to know about the catalog, and about clusters that have ended.

    `suspects` are requests that Envoys hold back. An unsettled service gets its clusters and route,
    but no endpoints are published: an Envoy that knows some keeps them.
    """
    guarded = edge.quarantine > 0
    every = {**clusters(catalog, quarantine=guarded), **lingering}
    arranged = {each.name: _arrange(each, catalog.zone, every) for each in catalog.services}
    routings = tuple(
        Routing(
            each.name,
            each.policy,
            of_service(suspects, each.name) if guarded else None,
            generation(each.policy, quarantine=guarded),
            ill(arranged[each.name][0][0], each.policy),
            each.since,
            model_table(each, arranged[each.name][0][0].routable) if each.policy.by_model else None,
        )
        for each in catalog.services
    )
    settled = [found for each in catalog.services if each.settled for found in arranged[each.name]]
    assignments = {found.cluster: found for found, _ in settled}
    by_capabilities = {
        capabilities: _variant(every, edge, capabilities) for capabilities in Capabilities
    }
    by_type = {
        RUNTIME: pack([(envoy_clusters.RUNTIME, envoy_clusters.runtime(settled))]),
        **by_capabilities.pop(Capabilities.PLAIN),
        ENDPOINT: pack(
            (name, envoy_clusters.load_assignment(found)) for name, found in assignments.items()
        ),
        ROUTE: pack([(routes.ROUTES, routes.routes(routings))]),
    }
    snapshot = Snapshot(
        resources=MappingProxyType(by_type),
        assignments=MappingProxyType(assignments),
        services=tuple(each.name for each in catalog.services),
        led=frozenset(each.name for each in catalog.services if each.policy.mode in _LED),
        routed=tuple(name for routing in routings for name in routing.clusters),
        version=digest(digest_of(by_type[type_url].values()).encode() for type_url in ORDER),
        variants=MappingProxyType(by_capabilities),
    )
    snapshot.consistent()
    return snapshot


def _variant(
    every: Mapping[str, FormerCluster], edge: Edge, capabilities: Capabilities
) -> Mapping[str, Mapping[str, Resource]]:
    """The resources that depend on an Envoy's capabilities."""
    guarded = edge.quarantine > 0
    clusters = (
        (
            name,
            envoy_clusters.cluster(
                name,
                former.policy,
                quarantine=guarded,
                counted_as=former.plain,
                capabilities=capabilities,
            ),
        )
        for name, former in every.items()
    )
    return {
        CLUSTER: pack(clusters),
        LISTENER: pack([(routes.LISTENER, routes.listener(edge, capabilities))]),
    }


def _arrange(
    service: ServiceCatalog, zone: str, every: Mapping[str, FormerCluster]
) -> list[tuple[Assignment, TrafficPolicy]]:
    """A service's assignments, each with the policy of its cluster.

    A lingering cluster is arranged by the current policy, unless that has no such cluster any more.
    """
    now, found = assign(service, zone), []
    for name, former in every.items():
        if former.service == service.name:
            own = (
                now if former.plain in now else assign(replace(service, policy=former.policy), zone)
            )
            arranged = own[former.plain]
            renamed = replace(
                arranged,
                cluster=name,
                waits=waits(former.policy),
                models=listed_models(arranged.listed, arranged.routable)
                if former.policy.by_model
                else (),
            )
            found.append((renamed, former.policy))
    return found


def digest_of(found: Iterable[Resource]) -> str:
    """The version of a set of resources, in any order."""
    pairs = sorted((resource.name, resource.version) for resource in found)
    return digest(f"{name}\0{version}\n".encode() for name, version in pairs)


def digest(parts: Iterable[bytes]) -> str:
    """Sixteen hexadecimal digits that depend on the content alone."""
    whole = hashlib.blake2b(digest_size=8)
    for part in parts:
        whole.update(part)
    return whole.hexdigest()


def pack(named: Iterable[tuple[str, Any]]) -> Mapping[str, Resource]:
    """Messages as resources, by name."""
    packed = {}
    for name, message in named:
        body = AnyMessage()
        body.Pack(message, deterministic=True)
        packed[name] = Resource(name, digest([body.value]), body)
    return MappingProxyType(packed)
