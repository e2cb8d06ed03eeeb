"""What a mesh has in Consul: services, checks, sessions and keys, and, apart, its history.

Acts: through its arguments.
"""

import json
from collections import Counter
from collections.abc import Mapping

from sidecar.drill.soak.tenures import Tenure
from sidecar.drill.stage.mesh import MeshStage
from sidecar.election.keys import history, orders
from sidecar.local import consul_view
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


async def tenures_in_history(stage: MeshStage) -> tuple[Tenure, ...]:
    """Who was primary, in every epoch that the history still has.

    Raises:
        Unavailable: Consul does not answer.
        Rejected: it refuses the token.
    """
    async with consul_view.connect(stage.now) as consul:
        stored = (await consul.kv_prefix(history.prefix(SERVICE))).value
    return tuple(Tenure(entry.epoch, entry.to) for entry in history.read(SERVICE, stored))


def _history(key: str) -> bool:
    """Whether a key is history, or of the last order: its proof and its outcome, one of each."""
    last = (orders.proof_key(SERVICE), orders.outcome_key(SERVICE))
    return key.startswith(history.prefix(SERVICE)) or key in last
