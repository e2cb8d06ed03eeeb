"""Former clusters that no route leads to, kept while requests may be in flight on them. Pure.

They belonged to releases that have ended, or to earlier policies. Envoy reports only on clusters
that it has, so without them a drain would miss what they still work on, and requests that fail
there could not be retried.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sidecar.traffic.policy import TrafficPolicy
from sidecar.xds.catalog.catalog import Catalog, ServiceCatalog
from sidecar.xds.config.cluster_names import generation
from sidecar.xds.config.endpoints import has_release, release_cluster

# Maximum of former clusters per service: an Envoy without load reports would keep them forever.
_MOST = 8


@dataclass(frozen=True, slots=True)
class FormerCluster:
    """A cluster as last published: its service, its name without a generation, and its policy.

    It keeps that policy, since Envoy replaces a cluster whose settings change, and forgets what is
    in flight on the old one.
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
    """The names of a service's clusters without their generation."""
    if has_release(service.policy):
        return service.name, release_cluster(service.name)
    return (service.name,)


def linger(
    before: Lingering, was: Catalog | None, now: Catalog, *, quarantine: bool = False
) -> Lingering:
    """The clusters that have ended and still linger, when a catalog follows another."""
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
