"""Whether the service's other instances are well enough for a drill, by Consul's catalog.

Acts: through what it imports or is given.
"""

from sidecar.consul.api import ConsulApi, ServiceEntry
from sidecar.election import candidates
from sidecar.recovery import other_instances
from sidecar.recovery.decision import Peers


async def look(consul: ConsulApi, service: str, own: str) -> Peers:
    """The instances of a service except this one; those that are not well count as down."""
    return await other_instances.look(consul, service, own, _is_well)


def _is_well(entry: ServiceEntry) -> bool:
    return all(map(candidates.is_well, candidates.read([entry])))
