"""Reads Consul's entries. What cannot be read is left out with its reason; nothing is raised."""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.xds.catalog import Health, Instance

if TYPE_CHECKING:
    from sidecar.consul_api import Check, ServiceEntry

# Consul's checks for maintenance mode: the sidecar's or the operator's word that no new requests
# are wanted. It says nothing about the work in flight.
_MAINTENANCE = ("_service_maintenance", "_node_maintenance")
# What Consul itself says, before the check's last output, once nobody has renewed a TTL check.
_LAPSED = "TTL expired"
# An agent that was restarted takes up its checks as critical until they have run, with an output
# from before: of its own poll of a sidecar, or the verdict that was pushed last.
_RESTORED = re.compile(r"gRPC check .*: success|(PASSING|WARNING) .*", re.DOTALL)
# Envoy refuses an assignment whose weights sum to more than a uint32; Consul itself knows no bound.
_MAX_WEIGHT = 65_535


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An entry of the catalog that says nothing about whether the instance can be used.

    `may_serve`: it is a good entry otherwise, so that Envoys may know the instance from earlier.
    """

    id: str
    reason: str
    may_serve: bool = False


def read_instances(
    entries: "Iterable[ServiceEntry]",
) -> tuple[tuple[Instance, ...], tuple[LeftOut, ...]]:
    """Instances sorted by id, and the entries left out.

    Of two entries with one id (a ghost on a node that the instance has left) the healthier one
    is believed.
    """
    instances: dict[str, Instance] = {}
    left_out: list[LeftOut] = []
    for entry in sorted(entries, key=_severity):
        found = _read(entry)
        if isinstance(found, LeftOut):
            left_out.append(found)
        elif found.id in instances:
            left_out.append(LeftOut(entry.id, f"id used twice, again on node {entry.node!r}"))
        else:
            instances[found.id] = found
    return tuple(instances[name] for name in sorted(instances)), tuple(left_out)


def _severity(entry: "ServiceEntry") -> int:
    order = [health.value for health in Health]
    return order.index(entry.status) if entry.status in order else len(order)


def _read(entry: "ServiceEntry") -> Instance | LeftOut:
    critical = [check for check in entry.checks if check.status == "critical"]
    if critical and all(_says_nothing(check) for check in critical):
        reason = f"check {critical[0].name!r} knows nothing about the instance"
        return LeftOut(entry.id, reason, may_serve=True)
    if entry.status not in {health.value for health in Health}:
        return LeftOut(entry.id, f"status {entry.status!r}: expected passing, warning or critical")
    address = _address(entry.address)
    if address is None:
        return LeftOut(entry.id, f"address {entry.address!r}: expected an IP address of one host")
    if _port(str(entry.port)) is None:
        return LeftOut(entry.id, f"port {entry.port}: expected a port number")
    health_port = _port(said := entry.meta.get("sidecar_grpc_port"))
    if health_port is None:
        return LeftOut(entry.id, f"meta sidecar_grpc_port {said!r}: expected a port number")
    health = Health(entry.status)
    weight = entry.weight_warning if health is Health.WARNING else entry.weight_passing
    return Instance(
        id=entry.id,
        address=address,
        port=entry.port,
        health_port=health_port,
        health=health,
        draining=any(map(_is_maintenance, critical)),
        weight=min(max(weight, 1), _MAX_WEIGHT),
    )


def _is_maintenance(check: "Check") -> bool:
    return check.id.startswith(_MAINTENANCE)


def _says_nothing(check: "Check") -> bool:
    """Whether a critical check is about something else than the instance.

    `serfHealth` is Consul's opinion of the node's agent: one that crashed or is cut off takes no
    Triton with it. A check that has never run is registered as critical, without output; one that
    stands for maintenance mode has none either, but means what it says. A verdict that lapsed was
    not heard, and an agent that paused for long hears none of any instance: the other check, and
    Envoy's own, tell whether the sidecar is there. One whose output speaks of success has not run
    since the agent was restarted, which happens to all instances of a node at once.
    """
    if check.id == "serfHealth" or check.output.startswith(_LAPSED):
        return True
    if _RESTORED.fullmatch(check.output):
        return True
    return not (check.output or _is_maintenance(check))


def _address(text: str) -> str | None:
    """The address as Envoy takes it.

    It knows no scope (`fe80::1%eth0`), and would refuse the other endpoints together with it.
    """
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    usable = not (found.is_unspecified or found.is_multicast or getattr(found, "scope_id", None))
    return str(found) if usable else None


def _port(text: str | None) -> int | None:
    if text is None or not text.isascii() or not text.isdigit():
        return None
    return int(text) if 0 < int(text) < 65_536 else None
