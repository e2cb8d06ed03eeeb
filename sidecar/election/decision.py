"""The decision on what to do next about the lock, and so about the role of primary. Pure.

Consul has one lock per service, held through a session that is bound to the instance's own checks.
`decide` takes an `ElectionView`, the instance's lease and the time, and returns the next action, or
what to wait for and until when. The loop executes the action and keeps the lease that results.

There is no preemption: a lock that is held is left alone. It moves because its session ended,
because its holder is unfit, or because of an order whose candidate has proved itself.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum

from sidecar.election import candidates
from sidecar.election.actions import (
    Acquire,
    Action,
    CancelOrder,
    CloseSession,
    NameCandidate,
    OpenSession,
    OrderFailback,
    ReadCatalog,
    Release,
    RenewSession,
    UpdateClaim,
    Wait,
)
from sidecar.election.candidates import Candidate, Field
from sidecar.election.keys.lock import ElectionLock
from sidecar.election.keys.orders import ElectionState, Kind, Order
from sidecar.election.lease import Lease


class Failback(StrEnum):
    """Whether the role returns to an instance of higher priority: automatically, or by order."""

    NEVER = "never"
    MANUAL = "manual"
    AUTO = "auto"


class Intent(Enum):
    """What the instance wants with the role."""

    SEEK = "take it if it is free, and keep it"  # Consul has confirmed a passing verdict
    KEEP = "keep it, but do not take it"  # withdrawn, with work in flight
    YIELD = "give it up"  # unfit, or stopping


@dataclass(frozen=True, slots=True)
class DecisionRules:
    """The rules of the election; durations are seconds.

    `declared` is the digest of the model set that a primary must serve, "" for the last primary's.
    For a free lock, each better candidate gets `step` to take it first, up to `most_steps` of them;
    the last holder gets `head_start` if it may be healthy, an order's candidate `handover`, and hot
    standbys that are starting get `cold_patience` from a cold one. A reading of the catalog is
    `fresh` for that long. `settle` is how long an instance must have been passing before it takes
    the role again, `failback_settle` before it orders the role back.
    """

    declared: str = ""
    failback: Failback = Failback.NEVER
    failback_settle: float = 60.0
    settle: float = 5.0
    head_start: float = 8.0
    handover: float = 5.0
    cold_patience: float = 30.0
    step: float = 0.2
    most_steps: int = 10
    fresh: float = 5.0


@dataclass(frozen=True, slots=True)
class ElectionView:
    """The facts for a decision.

    `state` is None before the keys have been read, `field` before the catalog has. `free_since` is
    when (monotonic seconds) the lock was first seen free; `wall` is now in Unix seconds.
    """

    state: ElectionState | None
    own: Candidate
    intent: Intent
    field: Field | None = None
    free_since: float | None = None
    wall: float = 0.0
    why: str = ""  # of the intent


def decide(view: ElectionView, lease: Lease, now: float, rules: DecisionRules) -> Action | Wait:
    """The next action: one at a time, because each can fail."""
    keeps = view.intent is Intent.SEEK or (view.intent is Intent.KEEP and lease.epoch)
    if not keeps:
        return _give_up(view, lease)
    if lease.session is None:
        return OpenSession()
    if lease.spent:
        return CloseSession()
    if now >= lease.renewal:
        return RenewSession()
    if lease.epoch and lease.offer:  # the release was not confirmed: repeat it
        return Release(lease.offer.why, lease.offer.to)
    if view.state is None:
        return _bounded(Wait("the lock has not been read yet"), lease, now)
    decided = (_hold if lease.epoch else _seek)(view, view.state, lease, now, rules)
    return _bounded(decided, lease, now) if isinstance(decided, Wait) else decided


def _give_up(view: ElectionView, lease: Lease) -> Action | Wait:
    if lease.session is None:
        return Wait(f"it does not stand for election: {view.why}")
    # Release first: unlike the end of a session, a release starts no lock-delay.
    return Release(view.why) if lease.epoch else CloseSession()


def _hold(
    view: ElectionView, state: ElectionState, lease: Lease, now: float, rules: DecisionRules
) -> Action | Wait:
    """As the holder: follow orders, and repair keys that were edited by hand."""
    if state.lock.index < lease.epoch:
        return Wait("its own acquisition is not visible yet")
    if state.lock.session == lease.session and state.lock.instance is None:
        return Acquire("the epoch was edited")
    if _outdated(state.lock, lease, view.own):
        return UpdateClaim()
    order = state.order
    if order is None or view.wall < order.at:
        return Wait("it is primary", _at(order.at if order else None, view, now))
    return _follow(order, view, state, now, rules)


def _outdated(lock: ElectionLock, lease: Lease, own: Candidate) -> bool:
    """Whether the lock names a model set that its holder no longer serves; others must match it.

    A cold standby in promotion has adopted its predecessor's model set, and must load it first.
    """
    last = lock.last
    if last is None or last.session != lease.session or own.cold or own.promoting:
        return False
    return bool(own.model_set) and own.model_set != last.model_set


def _follow(
    order: Order, view: ElectionView, state: ElectionState, now: float, rules: DecisionRules
) -> Action | Wait:
    """Carry out a due order."""
    if not order.due(view.wall):
        return CancelOrder(order, f"it was not carried out within {order.until - order.at:g} s")
    if order.kind is Kind.FAILBACK and state.paused(view.wall):
        return CancelOrder(order, "automation is paused")
    if order.to == view.own.id:
        return CancelOrder(order, f"{order.to} is primary already")
    if order.to is None:
        return _choose(order, view, state, now, rules)
    proof = state.proof_of(order)
    if order.force or (proof and proof.fit):
        return Release(order.sentence, order.to, order.id)
    if proof:
        return CancelOrder(order, f"{order.to} is not fit: {proof.why}")
    return Wait(f"{order.to} must prove itself first", _at(order.until, view, now))


def _choose(
    order: Order, view: ElectionView, state: ElectionState, now: float, rules: DecisionRules
) -> Action:
    """Choose the best other instance for an order that names none."""
    ordered = now - (view.wall - order.at)
    if view.field is None or now >= view.field.at + rules.fresh or view.field.at < ordered:
        return ReadCatalog()
    wanted = _wanted(state, view.field, rules)
    others = [each for each in view.field.candidates if each.id != view.own.id]
    best = candidates.preference(others, wanted, view.wall)
    if best:
        return NameCandidate(order, best[0].id)
    why = "; ".join(
        f"{each.id}: {', '.join(candidates.objections(each, wanted))}" for each in others
    )
    return CancelOrder(order, f"no other instance is fit: {why or 'there is no other instance'}")


def _seek(
    view: ElectionView, state: ElectionState, lease: Lease, now: float, rules: DecisionRules
) -> Action | Wait:
    """As an instance that does not hold the lock."""
    lock, last = state.lock, state.lock.last
    if lock.session == lease.session:
        return Acquire("the epoch was edited")
    if lock.session is not None:
        return _stand_by(view, state, now, rules)
    order, paused = state.due(view.wall), state.paused(view.wall)
    held_up = paused and order is not None and order.kind is Kind.FAILBACK
    if order and order.to and not held_up and (turn := _meant(order, view, state, now, rules)):
        return turn
    again = last and last.instance == view.own.id and (paused or not last.ended)
    if again and last and candidates.resumes(view.own, last.model_set):
        # An order to the best candidate is left to the lock's holder, which follows it.
        ends = order if order and order.to else None
        return Acquire("it lost its session and takes the role again", ends)
    # An order to the best candidate lets the instances compete for the lock, even while paused.
    if paused and (order is None or order.to):
        resumed = state.pause.until if state.pause else None
        return Wait("automation is paused", _at(resumed, view, now))
    return _stand(view, state, now, rules)


def _meant(
    order: Order, view: ElectionView, state: ElectionState, now: float, rules: DecisionRules
) -> Action | Wait | None:
    """While a free lock is reserved for an order's candidate; None once it no longer is."""
    until = (now if view.free_since is None else view.free_since) + rules.handover
    if order.to != view.own.id:
        return Wait(f"the role is meant for {order.to}", until) if now < until else None
    proof = state.proof_of(order)
    # The proof may be some time old if a lock-delay is running.
    fit = proof is not None and proof.fit and not candidates.objections(view.own, "")
    if order.force or fit:
        return Acquire(order.sentence, order)
    return None if proof else Wait("it must prove itself first", _at(order.until, view, now))


def _stand(
    view: ElectionView, state: ElectionState, now: float, rules: DecisionRules
) -> Action | Wait:
    """Take a free lock when it is this instance's turn.

    The last reading of the catalog, however old, gives the place in the queue; the catalog is read
    again when the turn has come. So only a few of many candidates query Consul for a free lock.
    """
    free_since = now if view.free_since is None else view.free_since
    if view.field is None:
        return ReadCatalog()
    fresh = view.field.at >= free_since and now < view.field.at + rules.fresh
    field, last = view.field.with_own(view.own), state.lock.last
    wanted = _wanted(state, field, rules)
    if against := candidates.objections(view.own, wanted):
        again = view.field.at + rules.fresh
        return Wait(f"it is not fit: {', '.join(against)}", again) if fresh else ReadCatalog()
    if now < (settled := (now if view.own.since is None else view.own.since) + rules.settle):
        return Wait(f"it has passed for less than {rules.settle:g} s", settled)
    # An old reading is wrong about the last holder, which has just lost the lock.
    gone = last.instance if last and not fresh else ""
    row = [each for each in field.candidates if each.id != gone or each == view.own]
    # An instance that has not settled does not take the lock, and the others don't wait for it.
    place = candidates.preference(row, wanted, view.wall).index(view.own)
    turn = free_since + min(place, rules.most_steps) * rules.step
    if fresh:
        turn += max(_head_start(view, state, field, rules), _patience(view, state, field, rules))
    if now < turn:
        return Wait(f"others come first: it is number {place + 1}", turn)
    if not fresh:
        return ReadCatalog()
    order = state.due(view.wall)
    cause = _cause(state, field)
    return Acquire(f"{order.sentence}; {cause}" if order else cause, order)


def _head_start(
    view: ElectionView, state: ElectionState, field: Field, rules: DecisionRules
) -> float:
    """Seconds for the last holder to return, if the end of its session says nothing about it.

    An agent that restarts forgets sessions, and starts its checks as critical.
    """
    last = state.lock.last
    if last is None or last.ended or last.instance == view.own.id:
        return 0.0
    found = field.find(last.instance)
    return rules.head_start if found is None or found.silent else 0.0


def _patience(
    view: ElectionView, state: ElectionState, field: Field, rules: DecisionRules
) -> float:
    """Seconds that a cold standby waits for hot ones that are starting."""
    hot = [each for each in field.candidates if not each.cold]
    starting = any(each.starting for each in hot) or state.lock.last is None
    return rules.cold_patience if view.own.cold and starting else 0.0


def _wanted(state: ElectionState, field: Field, rules: DecisionRules) -> str:
    """The model set that a primary must serve."""
    last = state.lock.last
    return candidates.reference(rules.declared, last.model_set if last else "", field.candidates)


def _cause(state: ElectionState, field: Field) -> str:
    """Why the lock was free, for the history."""
    last = state.lock.last
    if last is None:
        return "the first primary"
    if last.ended:
        return f"{last.instance} released the role: {last.ended.why}"
    found = field.find(last.instance)
    if found is None:
        return f"{last.instance} is not in the catalog"
    if found.silent:
        return f"{last.instance} lost its session, and nothing is known against it"
    return f"{last.instance} lost its session: {found.detail or found.state}"


def _stand_by(
    view: ElectionView, state: ElectionState, now: float, rules: DecisionRules
) -> Action | Wait:
    """While another instance holds the lock: order the role back if it is due."""
    idle = Wait("another instance is primary")
    due = failback_due(view.own, state.lock)
    if rules.failback is not Failback.AUTO or not due or view.own.since is None:
        return idle
    if state.order or state.paused(view.wall):
        return idle
    if now < (settled := view.own.since + max(rules.failback_settle, rules.settle)):
        return Wait("it is preferred but has not settled", settled)
    ended = state.outcome
    if ended and not ended.done and view.wall < (again := ended.at + rules.failback_settle):
        return Wait("an order has just failed", _at(again, view, now))
    if view.field is None or now >= view.field.at + rules.fresh:
        return ReadCatalog()
    field = view.field.with_own(view.own)
    wanted = _wanted(state, field, rules)
    if candidates.ranking(field.candidates, wanted)[:1] != (view.own,):
        return Wait(
            "it is preferred but not fit, or not the best candidate", view.field.at + rules.fresh
        )
    return OrderFailback(f"it has priority {view.own.priority} and passes")


def failback_due(own: Candidate, lock: ElectionLock) -> bool:
    """Whether an instance has a higher priority than the role's holder, and passes."""
    held = lock.instance is not None and lock.last is not None and lock.instance != own.id
    return bool(
        held
        and lock.last
        and own.priority > lock.last.priority
        and own.state == candidates.PASSING
        and not (own.maintenance or own.nofailover or own.unfit)
    )


def _at(wall: float | None, view: ElectionView, now: float) -> float | None:
    """A wall-clock time on the monotonic clock, by their present offset."""
    return None if wall is None else now + (wall - view.wall)


def _bounded(wait: Wait, lease: Lease, now: float) -> Wait:
    """Wait at most until the next renewal or the end of its own claim."""
    ends = (wait.until, lease.renewal, lease.end)
    return Wait(wait.why, min((at for at in ends if at is not None and at > now), default=None))
