"""Clusters to which no route leads any more: kept while requests may be in flight on them.

Those of releases that have ended, and those that a policy has made others of. Envoy reports only on
clusters that it has, so without them a drain would not see what they still work on, and what fails
there could not be sent again.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sidecar.traffic.policy import TrafficPolicy
from sidecar.xds.catalog.catalog import Catalog, ServiceCatalog
from sidecar.xds.config.cluster_names import generation
from sidecar.xds.config.endpoints import has_release, release_cluster

# Former clusters of a service at most: an Envoy that reports no load would keep them all for ever.
_MOST = 8


@dataclass(frozen=True, slots=True)
class FormerCluster:
    """A cluster as it was published last: whose, its name without a generation, and its policy.

    The policy stays the cluster's, since Envoy makes a new cluster of one that changes, and forgets
    what is in flight on the old one.
    """

    service: str
    plain: str
    policy: TrafficPolicy


Lingering = Mapping[str, FormerCluster]


def clusters(catalog: Catalog, *, quarantine: bool) -> dict[str, FormerCluster]:
    """The clusters of a catalog by name."""
    return {
        plain + generation(each.policy, quarantine=quarantine): FormerCluster(
            each.name, plain, each.policy
        )
        for each in catalog.services
        for plain in _plain(each)
    }


def _plain(service: ServiceCatalog) -> tuple[str, ...]:
    """The names of a service's clusters without what tells their generations apart."""
    if has_release(service.policy):
        return service.name, release_cluster(service.name)
    return (service.name,)


def linger(
    before: Lingering, was: Catalog | None, now: Catalog, *, quarantine: bool = False
) -> Lingering:
    """Which clusters have ended, and not been forgotten yet, when a catalog follows another."""
    served = {each.name for each in now.services}
    present = clusters(now, quarantine=quarantine)
    known = {**before, **(clusters(was, quarantine=quarantine) if was else {})}
    kept = {
        name: former
        for name, former in known.items()
        if name not in present and former.service in served
    }
    surplus = Counter(former.service for former in kept.values())
    for name, former in list(kept.items()):  # the oldest first
        if surplus[former.service] > _MOST:
            surplus[former.service] -= 1
            del kept[name]
    return kept
