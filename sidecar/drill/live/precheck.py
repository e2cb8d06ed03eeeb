"""Refuses a drill before anything is ordered: while one instance is unwell, above all. Pure."""

from sidecar.consul.api import ServiceEntry
from sidecar.election import candidates
from sidecar.injection.keys import Order
from sidecar.injection.rules import Code, Fault
from sidecar.operator.service_status import ServiceStatus
from sidecar.registry import checks
from sidecar.registry.registration import DRILL_META
from sidecar.runtime.errors import Conflict
from sidecar.runtime.timestamps import timestamp

# What only an operator changes: waiting for the steady state would be in vain.
STAYS = frozenset({Code.PAUSED, Code.MAINTENANCE})


class DrillRefused(Conflict):
    """A drill may not begin now; `code` says why to programs."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code


def permitted(entry: ServiceEntry) -> frozenset[str]:
    """The faults that an instance permits; none if its version knows no drills."""
    return frozenset(filter(None, entry.meta.get(DRILL_META, "").split(",")))


def held(order: Order | None) -> DrillRefused:
    """The refusal while another drill holds the lock."""
    if order is None:
        return DrillRefused(Code.HELD, "another drill runs; what it wrote cannot be read")
    what = f"{order.scenario} on {order.victim}"
    since = timestamp(order.since)
    return DrillRefused(Code.HELD, f"another drill runs: {what}, by {order.by}, since {since}")


def refusal(seen: ServiceStatus, victim: str, fault: Fault | None) -> DrillRefused | None:
    """Why a fault may not be caused to an instance now; None if it may.

    Without a fault it is about a planned move of the role, which needs a victim that permits some.
    """
    entry = next((each for each in seen.entries if each.id == victim), None)
    if entry is None:
        return DrillRefused(Code.NO_INSTANCE, f"{victim} is not an instance of {seen.service}")
    if not (allowed := permitted(entry)):
        why = f"{victim} permits no drills: drill.allow is empty, or its version knows none"
        return DrillRefused(Code.NOT_PERMITTED, why)
    if fault and fault not in allowed:
        why = f"{victim} permits {', '.join(sorted(allowed))}, not {fault}: see drill.allow"
        return DrillRefused(Code.NOT_PERMITTED, why)
    return refusal_of_mesh(seen, victim)


def refusal_of_mesh(seen: ServiceStatus, victim: str) -> DrillRefused | None:
    """Why no fault at all may be caused now; None if one may.

    What only an operator changes comes first.
    """
    if seen.state.paused(seen.wall):
        return DrillRefused(Code.PAUSED, "automation is paused; `resume` turns it on again")
    if maintained := [entry.id for entry in seen.entries if _is_maintained(entry)]:
        names = ", ".join(maintained)
        return DrillRefused(Code.MAINTENANCE, f"in maintenance mode: {names}")
    if seen.pending:
        why = "a move of the role is ordered; `list` shows it, `flush switchover` cancels it"
        return DrillRefused(Code.ORDER_PENDING, why)
    if len(seen.candidates) < 2:
        return DrillRefused(Code.ALONE, f"{seen.service} has fewer than two instances")
    return _refusal_of_unwell(seen, victim)


def _refusal_of_unwell(seen: ServiceStatus, victim: str) -> DrillRefused | None:
    unwell = [each for each in seen.candidates if not candidates.is_well(each)]
    if any(each.id == victim for each in unwell):
        return DrillRefused(Code.UNWELL, f"{victim} does not pass")
    if unwell:
        names = ", ".join(each.id for each in unwell)
        return DrillRefused(Code.OTHERS_UNWELL, f"not every instance passes: {names}")
    if seen.primary is None:
        return DrillRefused(Code.OTHERS_UNWELL, "there is no primary")
    return None


def _is_maintained(entry: ServiceEntry) -> bool:
    """Whether it, or its node, is in maintenance mode, and not by its own sidecar, which stops."""
    critical = (check for check in entry.checks if check.status == "critical")
    return any(
        checks.is_maintenance(check) and not checks.is_withdrawal(check, entry.meta)
        for check in critical
    )
