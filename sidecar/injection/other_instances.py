"""Whether the service's other instances are well enough for a drill, by Consul's catalog.

Acts: through what it imports or is given.
"""

from sidecar.consul.api import ConsulApi
from sidecar.election import candidates
from sidecar.recovery.decision import Peers
from sidecar.runtime.errors import SidecarError


async def look(consul: ConsulApi, service: str, own: str) -> Peers:
    """The instances of a service except this one; those that are not well count as down."""
    try:
        answer = await consul.health_service(service, consistent=True)
    except SidecarError as error:
        return Peers(unknown=str(error))
    if not answer.known_leader:
        return Peers(unknown="Consul's servers have no leader")
    if answer.filtered:
        return Peers(unknown=f"the ACL token may not see all instances of {service}")
    found = candidates.read(answer.value)
    others = [each for each in found if each.id != own]
    if len(others) == len(found):
        return Peers(unknown=f"the catalog does not list {own} itself")
    return Peers(len(others), sum(not candidates.is_well(each) for each in others))
