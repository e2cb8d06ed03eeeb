"""Reads Consul's entries. An unreadable one is skipped with the reason; nothing is raised. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

from sidecar.registry.checks import (
    is_inconclusive,
    is_maintenance,
    is_sidecar_silent,
    is_unproven,
    is_withdrawal,
    last_verdict,
    own_checks,
)
from sidecar.registry.duplicate_entries import rank
from sidecar.registry.registration import (
    HANDS_OVER_META,
    MAX_CAPACITY,
    YES,
    models_named,
    models_unusable,
)
from sidecar.runtime.addresses import unicast_address
from sidecar.xds.catalog.catalog import MAX_WEIGHT, WHOLE, Health, Instance

if TYPE_CHECKING:
    from sidecar.consul.api import Check, ServiceEntry

_DIGITS = 7
_ZONES = ("zone", "availability_zone")  # keys of a node's meta; the first one set counts


@dataclass(frozen=True, slots=True)
class SkippedEntry:
    """An entry that does not say whether the instance can be used.

    `may_serve`: it is valid otherwise, so Envoys may know the instance from earlier.
    `partly`: only what the reason names is ignored; the instance is used.
    """

    id: str
    reason: str
    may_serve: bool = False
    partly: bool = False


@dataclass(frozen=True, slots=True)
class _Reading:
    """The result of reading one entry."""

    entry: "ServiceEntry"
    rank: tuple[bool, int, str]
    found: Instance | SkippedEntry
    ignored: tuple[SkippedEntry, ...]


class EntryReader:
    """Reads a service's entries repeatedly; an unchanged object only once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], _Reading] = {}

    def read(
        self, entries: "Iterable[ServiceEntry]"
    ) -> tuple[tuple[Instance, ...], tuple[SkippedEntry, ...]]:
        """Instances sorted by id, and the skipped entries; of several with one id, one counts."""
        readings = [self._reading(entry) for entry in entries]
        self._known = {(each.entry.node, each.entry.id): each for each in readings}
        instances: dict[str, Instance] = {}
        skipped: list[SkippedEntry] = []
        seen: set[str] = set()
        for reading in sorted(readings, key=attrgetter("rank")):
            entry, found = reading.entry, reading.found
            if entry.id in seen:  # even if the better one is skipped: this one is stale
                skipped.append(SkippedEntry(entry.id, f"duplicate id, also on node {entry.node!r}"))
            elif isinstance(found, SkippedEntry):
                skipped.append(found)
            else:
                instances[found.id] = found
                skipped += reading.ignored
            seen.add(entry.id)
        return tuple(instances[name] for name in sorted(instances)), tuple(skipped)

    def _reading(self, entry: "ServiceEntry") -> _Reading:
        known = self._known.get((entry.node, entry.id))
        if known is not None and known.entry is entry:
            return known
        return _Reading(entry, rank(entry), _read(entry), tuple(_ignored(entry)))


def is_valid(instance: Instance) -> bool:
    """Whether its numbers and address are in the range that is accepted here, and by Envoy."""
    return (
        unicast_address(instance.address) == instance.address
        and all(_port(str(port)) for port in (instance.port, instance.health_port))
        and 1 <= instance.weight <= MAX_WEIGHT
        and 1 <= instance.percent <= WHOLE
        and 0 <= instance.capacity <= MAX_CAPACITY
    )


def _read(entry: "ServiceEntry") -> Instance | SkippedEntry:
    critical = [check for check in entry.checks if check.status == "critical"]
    relevant = [check for check in critical if not (is_inconclusive(check) or is_unproven(check))]
    explicit = [check for check in relevant if not is_sidecar_silent(check, entry.id)]
    silent = len(explicit) < len(relevant)
    unknown = not silent or any(map(is_unproven, critical))
    if critical and unknown and not explicit:
        reason = f"check {critical[0].name!r} has no result for the instance"
        return SkippedEntry(entry.id, reason, may_serve=True)
    where = _addresses(entry)
    if isinstance(where, SkippedEntry):
        return where
    address, health_port = where
    ill = _is_unhealthy(entry, explicit, silent)
    silent = silent and all(map(is_maintenance, explicit))
    health = Health((last_verdict(entry) if silent else None) or entry.status)
    weight = entry.weight_warning if health is Health.WARNING else entry.weight_passing
    return Instance(
        id=entry.id,
        address=address,
        port=entry.port,
        health_port=health_port,
        health=health,
        draining=any(map(is_maintenance, critical)),
        weight=min(max(weight, 1), MAX_WEIGHT),
        percent=_percent(entry, weight),
        model_set=entry.meta.get("model_set", ""),
        tags=entry.tags,
        zone=_zone(entry),
        capacity=_capacity(entry.meta.get("capacity")) or 0,
        silent=silent,
        hands_over=_hands_over(entry),
        ill=ill,
        models=models_named(entry.tags),
        unusable=models_unusable(entry.tags),
    )


def _addresses(entry: "ServiceEntry") -> tuple[str, int] | SkippedEntry:
    """The instance's address and its sidecar's port, if all of the entry's fields are valid."""
    if entry.status not in {health.value for health in Health}:
        return SkippedEntry(
            entry.id, f"status {entry.status!r}: expected passing, warning or critical"
        )
    address = unicast_address(entry.address)
    if address is None:
        return SkippedEntry(
            entry.id, f"address {entry.address!r}: expected an IP address of one host"
        )
    if _port(str(entry.port)) is None:
        return SkippedEntry(entry.id, f"port {entry.port}: expected a port number")
    health_port = _port(text := entry.meta.get("sidecar_grpc_port"))
    if health_port is None:
        return SkippedEntry(entry.id, f"meta sidecar_grpc_port {text!r}: expected a port number")
    return address, health_port


def _is_unhealthy(entry: "ServiceEntry", explicit: "Iterable[Check]", silent: bool) -> bool:
    """Whether its own sidecar reports a fault, or fell silent after reporting one."""
    own = any(check.id in own_checks(entry.id) for check in explicit)
    return own or (silent and last_verdict(entry) is None)


def _hands_over(entry: "ServiceEntry") -> bool:
    """Whether only others want it out of service, and it says that it waits for a successor.

    Its own checks are not critical, and it has not withdrawn itself.
    """
    critical = [check for check in entry.checks if check.status == "critical"]
    against = any(
        check.id in own_checks(entry.id) or is_withdrawal(check, entry.meta) for check in critical
    )
    return bool(critical) and not against and entry.meta.get(HANDS_OVER_META) == YES


def _percent(entry: "ServiceEntry", weight: int) -> int:
    """How much of its usual weight the instance has."""
    usual = max(entry.weight_passing, 1)
    return min(max(WHOLE * max(weight, 1) // usual, 1), WHOLE)


def _zone(entry: "ServiceEntry") -> str:
    """The instance's own zone, or else its node's."""
    return entry.meta.get("zone") or zone_of_node(entry)


def zone_of_node(entry: "ServiceEntry") -> str:
    """The zone of the node that an entry is registered on, from the agent's settings."""
    return next((entry.node_meta[key] for key in _ZONES if entry.node_meta.get(key)), "")


def _ignored(entry: "ServiceEntry") -> Iterable[SkippedEntry]:
    text = entry.meta.get("capacity")
    if text is not None and _capacity(text) is None:
        wanted = f"expected a whole number from 1 to {MAX_CAPACITY}"
        yield SkippedEntry(entry.id, f"meta capacity {text!r:.80}: {wanted}", partly=True)


def _capacity(text: str | None) -> int | None:
    if text is None or not text.isascii() or not text.isdigit() or len(text) > _DIGITS:
        return None
    return int(text) if 1 <= int(text) <= MAX_CAPACITY else None


def _port(text: str | None) -> int | None:
    if text is None or not text.isascii() or not text.isdigit():
        return None
    return int(text) if 0 < int(text) < 65_536 else None
