"""The clusters of releases that have ended: kept while requests may be in flight on them.

No route leads there any more. But Envoy reports only on clusters that it has, so without them a
drain would not see what they still work on, and what fails there could not be sent again.
"""

from collections.abc import Mapping

from sidecar.traffic.policy import TrafficPolicy
from sidecar.xds.catalog import Catalog
from sidecar.xds.endpoints import has_release

# By service: the policy with which its release was published last. It stays the cluster's, since
# Envoy makes a new cluster of one that changes, and forgets what is in flight on the old one.
Lingering = Mapping[str, TrafficPolicy]


def linger(before: Lingering, was: Catalog | None, now: Catalog) -> Lingering:
    """Which releases have ended, and not been forgotten yet, when a catalog follows another."""
    published = {each.name: each.policy for each in was.services} if was else {}
    found = {}
    for each in now.services:
        last = published.get(each.name)
        if has_release(each.policy):
            continue
        if last is not None and has_release(last):
            found[each.name] = last
        elif each.name in before:
            found[each.name] = before[each.name]
    return found
