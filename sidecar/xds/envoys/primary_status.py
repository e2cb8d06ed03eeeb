"""The primary of a service, and how many Envoys follow it. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from sidecar.xds.ads.ads_stream import AdsStream
from sidecar.xds.catalog.catalog import Catalog
from sidecar.xds.config.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class PrimaryStatus:
    """Fields as in sidecar.v1.WatchPrimaryResponse."""

    followed: bool = True
    instance: str = ""
    epoch: int = 0
    envoys: int = 0
    acknowledged: int = 0


def primary_status(
    service: str,
    catalog: Catalog | None,
    snapshot: Snapshot | None,
    connected: Iterable[AdsStream],
    absent: int,
) -> PrimaryStatus:
    """The current primary, and how many Envoys acknowledged it.

    Args:
        service: the service in question.
        catalog: the newest one, which may be ahead of the snapshot; None before the first.
        snapshot: what is sent to Envoys.
        connected: the Envoys' streams.
        absent: Envoys without a stream, whose state is unknown.
    """
    streams = tuple(connected)
    envoys = len(streams) + absent
    if catalog is None:
        return PrimaryStatus(envoys=envoys)
    leaders = {found.name: found.leader for found in catalog.services}
    if service not in leaders:
        return PrimaryStatus(followed=False)
    leader = leaders[service]
    if leader is None:
        return PrimaryStatus(envoys=envoys)
    # An instance that has just become unusable is no longer what Envoys are sent, although none of
    # them may have acknowledged that yet.
    published = snapshot is not None and snapshot.prefers(service, leader.instance)
    among = snapshot.choices(service) if snapshot else ()
    acknowledged = sum(
        published and each.acknowledges_first(service, leader.instance, among) for each in streams
    )
    return PrimaryStatus(True, leader.instance, leader.epoch, envoys, acknowledged)
