"""What a mesh has in Consul: services, checks, sessions and keys, except its history.

Acts: through its arguments.
"""

import json
from collections import Counter
from collections.abc import Mapping

from sidecar.drill.stage.mesh import MeshStage
from sidecar.election.keys import history, orders
from sidecar.local.planning.plan import SERVICE


async def consul_entries(stage: MeshStage) -> Mapping[str, int]:
    """How many there are of each, by kind and name.

    Raises:
        Unavailable: Consul does not answer.
        Rejected: it has no leader.
    """
    checks = json.loads(await stage.consul("GET", "health/state/any"))
    sessions = json.loads(await stage.consul("GET", "session/list"))
    keys = json.loads(await stage.consul("GET", "kv/?keys"))
    found = Counter(f"check {check['CheckID']} of {check['Node']}" for check in checks)
    found.update(f"session {one['Name'] or 'without a name'} of {one['Node']}" for one in sessions)
    found.update(f"key {key}" for key in keys if not _history(key))
    for node in json.loads(await stage.consul("GET", "catalog/nodes")):
        listed = json.loads(await stage.consul("GET", f"catalog/node/{node['Node']}"))
        services = (listed or {}).get("Services", {})
        found.update(f"service {service} of {node['Node']}" for service in services)
    return found


def _history(key: str) -> bool:
    """Whether a key is history, or of the last order: its proof and its outcome, one of each."""
    last = (orders.proof_key(SERVICE), orders.outcome_key(SERVICE))
    return key.startswith(history.prefix(SERVICE)) or key in last
