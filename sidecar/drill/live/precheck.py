"""Refuses a drill before anything is ordered: while one instance is unwell, above all. Pure."""

from sidecar.consul.api import ServiceEntry
from sidecar.election import candidates
from sidecar.injection.keys import Order
from sidecar.injection.rules import Code, Fault
from sidecar.operator.service_status import ServiceStatus
from sidecar.registry.registration import DRILL_META
from sidecar.runtime.errors import Conflict
from sidecar.runtime.timestamps import timestamp


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
    """Why no fault at all may be caused now; None if one may."""
    if seen.state.paused(seen.wall):
        return DrillRefused(Code.PAUSED, "automation is paused; `resume` turns it on again")
    if seen.pending:
        why = "a move of the role is ordered; `list` shows it, `flush switchover` cancels it"
        return DrillRefused(Code.ORDER_PENDING, why)
    if len(seen.candidates) < 2:
        return DrillRefused(Code.ALONE, f"{seen.service} has fewer than two instances")
    if maintained := [each.id for each in seen.candidates if each.maintenance]:
        names = ", ".join(maintained)
        return DrillRefused(Code.MAINTENANCE, f"in maintenance mode: {names}")
    unwell = [each for each in seen.candidates if not candidates.is_well(each)]
    if any(each.id == victim for each in unwell):
        return DrillRefused(Code.UNWELL, f"{victim} does not pass")
    if unwell:
        names = ", ".join(each.id for each in unwell)
        return DrillRefused(Code.OTHERS_UNWELL, f"not every instance passes: {names}")
    if seen.primary is None:
        return DrillRefused(Code.OTHERS_UNWELL, "there is no primary")
    return None
