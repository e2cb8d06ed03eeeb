"""The instances of a service as Envoy's admin pages show them. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sidecar.xds.config.endpoints import is_release, service_of


@dataclass(frozen=True, slots=True)
class Host:
    """An instance as Envoy has it."""

    priority: int
    health: Mapping[str, Any]
    active: int
    weight: int

    @property
    def usable(self) -> bool:
        """Whether Envoy may choose it."""
        return self.health == {"eds_health_status": "HEALTHY"}

    def merged(self, other: "Host") -> "Host":
        """The same instance in two clusters; it is as bad as in the worse one."""
        worse = other if self.usable else self
        priority = max(self.priority, other.priority)
        return replace(worse, priority=priority, active=self.active + other.active)


def read(text: str, service: str, names: Mapping[str, str]) -> dict[str, Host]:
    """The instances in all clusters of a service, by id.

    After a change of the policy, the former cluster stays while requests are in flight there. A
    release has a separate cluster, whose priorities differ.

    Args:
        text: the answer to `/clusters?format=json`.
        service: its name.
        names: ids by `host:port`; a host without one is named by its address.
    """
    found: dict[str, Host] = {}
    for cluster in json.loads(text)["cluster_statuses"]:
        if service_of(cluster["name"]) != service:
            continue
        for status in cluster.get("host_statuses", ()):
            name, host = _host(status, names)
            if is_release(cluster["name"]):
                host = replace(host, priority=0)  # the other cluster's counts
            found[name] = found[name].merged(host) if name in found else host
    return found


def _host(status: Mapping[str, Any], names: Mapping[str, str]) -> tuple[str, Host]:
    """A host as Envoy's admin pages show it, with its instance's id, or else its address."""
    socket = status["address"]["socket_address"]
    stats = {stat["name"]: int(stat.get("value", 0)) for stat in status["stats"]}
    address = f"{socket['address']}:{socket['port_value']}"
    return names.get(address, address), Host(
        status.get("priority", 0),
        status["health_status"],
        stats["rq_active"],
        status.get("weight", 1),
    )
