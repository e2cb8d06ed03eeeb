"""The instances of a local mesh as Consul shows them.

Acts: through what it imports or is given.
"""

from dataclasses import dataclass
from typing import Literal

from sidecar.consul.access import ConsulAccess
from sidecar.consul.api import Check, ConsulApi, ServiceEntry
from sidecar.consul.client import Consul
from sidecar.election import candidates
from sidecar.election.candidates import Candidate
from sidecar.election.keys import lock
from sidecar.local.meshfile import Mesh
from sidecar.local.planning.plan import SERVICE
from sidecar.registry import checks
from sidecar.registry.duplicate_entries import fold
from sidecar.registry.registration import COLD, DIFFERS_META, PAUSED_META

Role = Literal["primary", "promoting", "standby"]
# The status of an instance without a fault.
HEALTHY = frozenset({"passing", COLD})


@dataclass(frozen=True, slots=True)
class InstanceView:
    """One instance in the catalog: its status, its role, and the reasons of failing checks.

    `paused` is why automation is paused, according to the instance, and `differs` which model set
    its own differs from; both are usually empty.
    """

    id: str
    status: str
    role: Role
    reason: str
    paused: str = ""
    differs: str = ""


def connect(mesh: Mesh) -> Consul:
    """A Consul client with the operator's token of a mesh; an async context manager."""
    return Consul(
        ConsulAccess(address=f"http://{mesh.consul.http}", token_file=mesh.consul.token_file)
    )


async def observe(api: ConsulApi) -> dict[str, InstanceView]:
    """The instances in the catalog, by id.

    Raises:
        Unavailable: Consul does not answer.
        Rejected: it rejects the token.
    """
    entries = fold((await api.health_service(SERVICE)).value)
    held = await api.kv_prefix(lock.prefix(SERVICE))
    holder = lock.read(SERVICE, held.value, held.index).instance
    return {
        entry.id: _view(entry, candidate, holds=entry.id == holder)
        for entry, candidate in zip(entries, candidates.read(entries), strict=True)
    }


def _view(entry: ServiceEntry, candidate: Candidate, *, holds: bool) -> InstanceView:
    promoting = candidate.promoting and not candidate.serving
    taken: Role = "promoting" if promoting else "primary"
    return InstanceView(
        id=entry.id,
        status=candidate.state,
        role=taken if holds else "standby",
        reason="; ".join(_reason(check) for check in entry.checks if check.status != "passing"),
        paused=entry.meta.get(PAUSED_META, ""),
        differs=entry.meta.get(DIFFERS_META, ""),
    )


def _reason(check: Check) -> str:
    output = checks.first_line(check)
    return f"{check.name}: {output}" if output else f"{check.name} has not run yet"
