"""Who is preferred, and how many Envoys know it."""

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
    """What is believed, and what the Envoys have confirmed of it.

    Args:
        service: the service that is asked about.
        catalog: the newest one, which may be ahead of the snapshot; None before there was one.
        snapshot: what Envoys are being told.
        connected: the Envoys' streams.
        absent: Envoys without a stream, of which nothing is known.
    """
    conversations = tuple(connected)
    envoys = len(conversations) + absent
    if catalog is None:
        return PrimaryStatus(envoys=envoys)
    leaders = {found.name: found.leader for found in catalog.services}
    if service not in leaders:
        return PrimaryStatus(followed=False)
    leader = leaders[service]
    if leader is None:
        return PrimaryStatus(envoys=envoys)
    # An instance that has just become unusable is not what Envoys are told any more, although none
    # of them may have confirmed that yet.
    told = snapshot is not None and snapshot.prefers(service, leader.instance)
    among = snapshot.choices(service) if snapshot else ()
    acknowledged = sum(
        told and each.acknowledges_first(service, leader.instance, among) for each in conversations
    )
    return PrimaryStatus(True, leader.instance, leader.epoch, envoys, acknowledged)
