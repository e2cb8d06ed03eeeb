"""Reads the state of the service's other instances from Consul's catalog.

Acts: through what it imports or is given.
"""

from collections.abc import Callable

from sidecar.consul.api import ConsulApi, ServiceEntry
from sidecar.recovery.decision import Peers
from sidecar.registry.duplicate_entries import fold
from sidecar.runtime.errors import SidecarError


def _serves(entry: ServiceEntry) -> bool:
    return entry.status in ("passing", "warning")


async def look(
    consul: ConsulApi, service: str, own: str, is_up: Callable[[ServiceEntry], bool] = _serves
) -> Peers:
    """Read the instances of a service except this one; the others are down unless `is_up`.

    An answer without this instance proves nothing: Consul 1.8 shows no instances at all to a token
    that may not read the service.
    """
    try:
        answer = await consul.health_service(service, consistent=True)
    except SidecarError as error:
        return Peers(unknown=str(error))
    if not answer.known_leader:
        return Peers(unknown="Consul's servers have no leader")
    if answer.filtered:
        return Peers(unknown=f"the ACL token may not see all instances of {service}")
    entries = fold(answer.value)
    others = [entry for entry in entries if entry.id != own]
    if len(others) == len(entries):
        return Peers(unknown=f"the catalog does not list {own} itself")
    return Peers(len(others), sum(not is_up(entry) for entry in others))
