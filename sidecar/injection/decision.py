"""What a sidecar does now about a drill: inject a fault, refuse, restore, or nothing. Pure.

Whatever is doubtful restores: the lock gone, Consul silent, the time over.
"""

import math
from dataclasses import dataclass
from typing import TypeGuard

from sidecar.injection.keys import BEGUN, Answer, DrillKeys, Order
from sidecar.injection.rules import Code, Fault, InjectionRules
from sidecar.recovery.decision import Peers


@dataclass(frozen=True, slots=True)
class Active:
    """A fault that this process has caused, until a time (monotonic seconds) at most."""

    order: str
    fault: Fault
    until: float


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known now.

    Attributes:
        instance: this sidecar's instance.
        keys: the drill's keys, as last read.
        current: whether Consul still answers, so that `keys` are current.
        handled: the id of the order that this process has already dealt with, or "".
        passing: whether this instance's verdict is PASSING.
        paused: why automation is paused, or "".
        others: the other instances; None if they have not been looked at for this decision.
        now: monotonic seconds.
    """

    instance: str
    keys: DrillKeys
    current: bool
    handled: str
    passing: bool
    paused: str
    others: Peers | None
    now: float


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing to do, until something changes."""


@dataclass(frozen=True, slots=True)
class GatherFacts:
    """An order can be followed if the other instances are well: look at them."""


@dataclass(frozen=True, slots=True)
class Inject:
    """Cause the fault of an order, for at most so many seconds."""

    order: Order
    fault: Fault
    seconds: float


@dataclass(frozen=True, slots=True)
class Refuse:
    """Refuse an order."""

    order: Order
    code: Code
    why: str


@dataclass(frozen=True, slots=True)
class Restore:
    """Undo the fault that this process has caused."""

    code: Code


@dataclass(frozen=True, slots=True)
class Repair:
    """Undo what an earlier process of this sidecar has caused: it left this answer."""

    answer: Answer


Decision = Idle | GatherFacts | Inject | Refuse | Restore | Repair


def decide(facts: Facts, active: Active | None, rules: InjectionRules) -> Decision:
    """What to do now."""
    if active is not None:
        code = _over(facts, active)
        return Restore(code) if code else Idle()
    left = facts.keys.newest_of(facts.instance)
    if left and left.said in BEGUN and left.order != facts.handled and facts.current:
        return Repair(left)
    order = facts.keys.running
    if not _is_for_us(order, facts):
        return Idle()
    if refusal := _own_refusal(order, facts, rules):
        return refusal
    if facts.others is None:
        return GatherFacts()
    if refusal := _refusal_for_others(order, facts.others):
        return refusal
    return Inject(order, Fault(order.fault), min(order.seconds, rules.max_seconds))


def wake_at(active: Active | None) -> float:
    """When (monotonic seconds) to decide again if nothing changes; infinity: never."""
    return active.until if active else math.inf


def _over(facts: Facts, active: Active) -> Code | None:
    """Why a fault must be undone, or None."""
    order = facts.keys.running
    if facts.now >= active.until:
        return Code.TIME_OVER
    if not facts.current:
        return Code.CONSUL_LOST
    if order is None or order.id != active.order:
        return Code.LOCK_LOST
    ordered = (order.victim, order.fault) == (facts.instance, active.fault.value)
    return None if ordered else Code.ENDED


def _is_for_us(order: Order | None, facts: Facts) -> TypeGuard[Order]:
    """Whether an order waits for this sidecar; one that it has answered does not."""
    if order is None or not facts.current or not order.fault or order.victim != facts.instance:
        return False
    answered = facts.keys.answer_of(facts.instance, order.id)
    return answered is None and order.id != facts.handled


def _own_refusal(order: Order, facts: Facts, rules: InjectionRules) -> Refuse | None:
    own = facts.instance
    if order.fault not in {fault.value for fault in rules.allow}:
        return Refuse(
            order, Code.NOT_PERMITTED, f"drill.allow of {own} does not have {order.fault}"
        )
    if facts.paused:
        return Refuse(order, Code.PAUSED, f"automation is paused: {facts.paused}")
    if not facts.passing:
        return Refuse(order, Code.UNWELL, f"{own} does not pass")
    return None


def _refusal_for_others(order: Order, others: Peers) -> Refuse | None:
    if others.unknown:
        return Refuse(order, Code.UNKNOWN, others.unknown)
    if others.count == 0:
        return Refuse(order, Code.ALONE, "there is no other instance")
    if others.down:
        what = f"{others.down} of {others.count} other instances are out of service"
        return Refuse(order, Code.OTHERS_UNWELL, what)
    return None
