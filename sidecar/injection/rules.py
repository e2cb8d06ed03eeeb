"""Which faults a sidecar may cause to its own instance in a drill, and the codes of refusals. Pure.

Settings make `InjectionRules`; without a permitted fault the sidecar does not even look.
"""

from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """What a sidecar can do to its own instance."""

    CRASH = "crash"
    FREEZE = "freeze"
    STUBS_KILLED = "stubs-killed"
    STUBS_FROZEN = "stubs-frozen"
    SIDECAR_KILLED = "sidecar-killed"
    SIDECAR_FROZEN = "sidecar-frozen"


# Faults that leave processes of Triton frozen if nothing undoes them.
TRITON_FROZEN = frozenset({Fault.FREEZE, Fault.STUBS_FROZEN})
# Faults after which the sidecar itself cannot do anything any more, or not at once.
OF_SIDECAR = frozenset({Fault.SIDECAR_KILLED, Fault.SIDECAR_FROZEN})


class Code(StrEnum):
    """Why a drill was refused, or why its fault ended.

    By the drill command: HELD: another drill runs. NO_INSTANCE: the victim is not in the catalog.
    ORDER_PENDING: a switchover is due. UNANSWERED: the victim's sidecar has not answered.
    MAINTENANCE: an instance is in maintenance mode, and not because its sidecar stops.
    By either: NOT_PERMITTED: the victim's settings do not permit the fault, or its version knows no
    drills. PAUSED: automation is paused. UNWELL: the victim does not pass. OTHERS_UNWELL: another
    instance does not. ALONE: there is no other one. UNKNOWN: Consul does not show all of them.
    NOT_UNDONE: the sidecar could not undo all of the fault.
    NOT_INJECTED: the sidecar may not signal Triton, or the fault failed in another way.
    Why a fault ended: ENDED: the drill ordered it. LOCK_LOST: the drill has gone. TIME_OVER: it
    lasted for as long as it may. CONSUL_LOST: Consul does not answer the sidecar. STOPPING: the
    sidecar stops, perhaps before it injected the fault. LEFT: an earlier process of this sidecar
    had caused it.
    """

    HELD = "held"
    NO_INSTANCE = "no_instance"
    ORDER_PENDING = "order_pending"
    UNANSWERED = "unanswered"
    NOT_PERMITTED = "not_permitted"
    PAUSED = "paused"
    MAINTENANCE = "maintenance"
    UNWELL = "unwell"
    OTHERS_UNWELL = "others_unwell"
    ALONE = "alone"
    UNKNOWN = "unknown"
    NOT_INJECTED = "not_injected"
    NOT_UNDONE = "not_undone"
    ENDED = "ended"
    LOCK_LOST = "lock_lost"
    TIME_OVER = "time_over"
    CONSUL_LOST = "consul_lost"
    STOPPING = "stopping"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class InjectionRules:
    """The permitted faults, and the longest time in seconds that one may last."""

    allow: frozenset[Fault] = frozenset()
    max_seconds: float = 60.0
