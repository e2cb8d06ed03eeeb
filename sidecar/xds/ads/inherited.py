"""What an Envoy has and a snapshot lacks, added to it: of an earlier snapshot or control plane."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2

from sidecar.xds.config import clusters as envoy_clusters
from sidecar.xds.config.endpoints import Assignment, is_release, service_of
from sidecar.xds.config.snapshot import CLUSTER, ENDPOINT, Resource, Snapshot, pack


def with_endpoints(snapshot: Snapshot, clusters: frozenset[str]) -> Snapshot:
    """The snapshot with endpoints for clusters that it does not have: those of the service now."""
    found, packed = _endpoints(snapshot, clusters)
    return replace(
        snapshot,
        resources=_more(snapshot, {ENDPOINT: packed}),
        assignments=MappingProxyType({**snapshot.assignments, **found}),
    )


def with_clusters(snapshot: Snapshot, clusters: Iterable[str]) -> Snapshot:
    """The snapshot with clusters that it does not have, configured as the service's are now.

    Envoy makes new ones of those that it has by these names: routes to them go on, but what is in
    flight there is in no load report any more.
    """
    published = snapshot.of(CLUSTER)
    found = (_renamed(published[like], name) for name, like in _likenesses(snapshot, clusters))
    return replace(
        snapshot, resources=_more(snapshot, {CLUSTER: {each.name: each for each in found}})
    )


def keeping(snapshot: Snapshot, before: Snapshot, clusters: AbstractSet[str]) -> Snapshot:
    """The snapshot with some clusters and their endpoints as they were before."""

    def kept(then: Mapping[str, Any]) -> dict[str, Any]:
        return {name: then[name] for name in clusters if name in then}

    more = {type_url: kept(before.of(type_url)) for type_url in (CLUSTER, ENDPOINT)}
    assignments = {**snapshot.assignments, **kept(before.assignments)}
    return replace(
        snapshot,
        resources=_more(snapshot, more),
        assignments=MappingProxyType(assignments),
    )


def _likenesses(snapshot: Snapshot, clusters: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Each cluster with one of its service in the snapshot, of the same kind if there is one."""
    for name in clusters:
        own = snapshot.clusters(service_of(name))
        alike = [each for each in own if is_release(each) == is_release(name)]
        for like in (alike or own)[:1]:
            yield name, like


@lru_cache(maxsize=8)
def _endpoints(
    snapshot: Snapshot, clusters: frozenset[str]
) -> tuple[Mapping[str, Assignment], Mapping[str, Resource]]:
    """For all Envoys that came with the same clusters, in whatever dialect, and at each look."""
    found = {
        name: replace(snapshot.assignments[like], cluster=name)
        for name, like in _likenesses(snapshot, clusters)
    }
    return found, pack((name, envoy_clusters.load_assignment(each)) for name, each in found.items())


def _renamed(cluster: Resource, name: str) -> Resource:
    return _cluster(cluster.body.value, name)


@lru_cache(maxsize=512)
def _cluster(body: bytes, name: str) -> Resource:
    message = cluster_pb2.Cluster.FromString(body)
    message.alt_stat_name = message.alt_stat_name or message.name
    message.name = name
    return pack([(name, message)])[name]


def _more(
    snapshot: Snapshot, found: Mapping[str, Mapping[str, Resource]]
) -> Mapping[str, Mapping[str, Resource]]:
    """The snapshot's resources and more of some types."""
    added = {
        type_url: MappingProxyType({**snapshot.of(type_url), **more})
        for type_url, more in found.items()
    }
    return MappingProxyType({**snapshot.resources, **added})
