"""What a drill leaves in Consul for people and alerts: its entry in the history, and the last one.

Pure.
"""

from dataclasses import replace
from typing import Literal

from sidecar.consul.api import Set
from sidecar.election.keys import history, lock
from sidecar.election.keys.history import DrillEntry
from sidecar.injection import keys
from sidecar.injection.keys import LastDrill, Order
from sidecar.injection.rules import Fault
from sidecar.runtime.timestamps import timestamp

Outcome = Literal["done", "aborted", "refused"]


def began(order: Order, fault: Fault | None) -> DrillEntry:
    """The entry of a drill that begins; without a fault it is a planned move of the role."""
    return DrillEntry(
        drill=order.id,
        scenario=order.scenario,
        fault=fault.value if fault else "",
        victim=order.victim,
        by=order.by,
        began=timestamp(order.since),
    )


def write(service: str, entry: DrillEntry) -> Set:
    """The operation that writes an entry."""
    return Set(history.drill_key(service, entry), lock.dumps(entry))


def ended(entry: DrillEntry, wall: float, outcome: Outcome, code: str) -> DrillEntry:
    """The entry of a drill that ended at `wall` (Unix seconds)."""
    return replace(entry, ended=timestamp(wall), outcome=outcome, code=code)


def at_its_end(
    service: str, order: Order, entry: DrillEntry, wall: float, outcome: Outcome, code: str
) -> tuple[Set, ...]:
    """The operations at the end of a drill, at `wall` (Unix seconds).

    Only a drill that was done counts as the last one.
    """
    written = write(service, ended(entry, wall, outcome, code))
    if outcome != "done":
        return (written,)
    last = LastDrill(order.id, order.scenario, order.victim, order.by, order.since, wall)
    return written, Set(keys.last_key(service), lock.dumps(last))
