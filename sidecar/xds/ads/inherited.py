"""Adds to a snapshot what an Envoy has from an earlier one, or from another control plane."""

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
    """The snapshot with endpoints for clusters that it lacks: the current ones of their service."""
    found, packed = _endpoints(snapshot, clusters)
    return replace(
        snapshot,
        resources=_extended(snapshot, {ENDPOINT: packed}),
        assignments=MappingProxyType({**snapshot.assignments, **found}),
    )


def with_clusters(snapshot: Snapshot, clusters: Iterable[str]) -> Snapshot:
    """The snapshot with clusters that it lacks, configured like the service's current ones.

    Envoy recreates its clusters of these names: routes to them keep working, but load reports no
    longer show what is in flight on the old ones.
    """
    published = snapshot.of(CLUSTER)
    found = (_renamed(published[model], name) for name, model in _models(snapshot, clusters))
    return replace(
        snapshot, resources=_extended(snapshot, {CLUSTER: {each.name: each for each in found}})
    )


def keeping(snapshot: Snapshot, before: Snapshot, clusters: AbstractSet[str]) -> Snapshot:
    """The snapshot with some clusters and their endpoints as they were in an earlier one."""

    def kept(then: Mapping[str, Any]) -> dict[str, Any]:
        return {name: then[name] for name in clusters if name in then}

    more = {type_url: kept(before.of(type_url)) for type_url in (CLUSTER, ENDPOINT)}
    assignments = {**snapshot.assignments, **kept(before.assignments)}
    return replace(
        snapshot,
        resources=_extended(snapshot, more),
        assignments=MappingProxyType(assignments),
    )


def _models(snapshot: Snapshot, clusters: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Each cluster with one of its service in the snapshot, preferably of the same kind."""
    for name in clusters:
        own = snapshot.clusters(service_of(name))
        same_kind = [each for each in own if is_release(each) == is_release(name)]
        for model in (same_kind or own)[:1]:
            yield name, model


@lru_cache(maxsize=8)
def _endpoints(
    snapshot: Snapshot, clusters: frozenset[str]
) -> tuple[Mapping[str, Assignment], Mapping[str, Resource]]:
    """Cached for all Envoys that inherited the same clusters, whatever fields they know."""
    found = {
        name: replace(snapshot.assignments[model], cluster=name)
        for name, model in _models(snapshot, clusters)
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


def _extended(
    snapshot: Snapshot, found: Mapping[str, Mapping[str, Resource]]
) -> Mapping[str, Mapping[str, Resource]]:
    """The snapshot's resources plus more of some types."""
    added = {
        type_url: MappingProxyType({**snapshot.of(type_url), **more})
        for type_url, more in found.items()
    }
    return MappingProxyType({**snapshot.resources, **added})
