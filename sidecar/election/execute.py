"""Executes the actions of `decision.decide` as requests to Consul.

It waits for nothing but Consul, so that a test can drive it step by step.

Acts: through what it imports or is given.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from sidecar.consul import api
from sidecar.consul.api import ConsulApi, Delete, HoldsLock, Operation, Set, Unchanged, Unlock
from sidecar.election import candidates, lease
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
)
from sidecar.election.candidates import Field
from sidecar.election.decision import ElectionView
from sidecar.election.keys import history, lock, orders
from sidecar.election.keys.lock import Claim, Ended
from sidecar.election.keys.orders import Kind, Order, Outcome, Proof
from sidecar.election.lease import Lease
from sidecar.runtime.errors import Conflict
from sidecar.runtime.timestamps import timestamp


@dataclass(frozen=True, slots=True)
class ElectionContext:
    """What an instance executes actions with; `now` is monotonic, `wall` Unix seconds.

    `checks` names the instance's checks that the session is bound to; `order_id` makes a unique id.
    """

    consul: ConsulApi
    service: str
    instance: str
    checks: Callable[[], tuple[str, ...]]
    lock_delay: float
    now: Callable[[], float]
    wall: Callable[[], float]
    order_id: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Done:
    """The result of an action: the lease, and the candidates if the catalog was read."""

    lease: Lease
    field: Field | None = None


def begun(action: Action, held: Lease, now: float) -> Lease:
    """The lease once an action has begun, whether it succeeds or fails."""
    match action:
        case RenewSession():
            return lease.attempted(held, now)
        case Release(why, to):
            return lease.offered(held, why, to)
        case _:
            return held


async def execute(
    action: Action, view: ElectionView, held: Lease, context: ElectionContext
) -> Done:
    """Execute one action.

    Raises:
        Conflict: it no longer applies.
        SessionLost: the session is gone.
        SidecarError: Consul did not answer or refused; it may have been executed or not.
    """
    sent, session = context.now(), held.session or ""
    match action:
        case OpenSession():
            return Done(lease.opened(held, await _open(held, context), sent))
        case RenewSession():
            await context.consul.session_renew(session)
            return Done(lease.renewed(held, sent))
        case CloseSession():
            await context.consul.session_destroy(session)
            return Done(lease.lost(held))
        case ReadCatalog():
            entries = (await context.consul.health_service(context.service)).value
            return Done(held, Field(candidates.read(entries), sent))
        case Acquire():
            return Done(lease.acquired(held, await _acquire(action, view, session, context)))
        case Release():
            await _release(action, view, session, context)
            return Done(lease.released(held))
        case _:
            await _write(context, *_key_writes(action, view, session, context))
            return Done(held)


def _key_writes(
    action: UpdateClaim | NameCandidate | CancelOrder | OrderFailback,
    view: ElectionView,
    session: str,
    context: ElectionContext,
) -> tuple[Operation, ...]:
    """The operations of an action that only writes keys, with their conditions."""
    match action:
        case UpdateClaim():
            return _held(session, context), _restated(view, session, context)
        case NameCandidate(order, to):
            return _held(session, context), _order(context, replace(order, to=to), order.index)
        case CancelOrder(order, why):
            return _held(session, context), *_closing(order, context, why)
        case OrderFailback(reason):
            index = view.state.order_index if view.state else 0
            order = new_order(Kind.FAILBACK, context.instance, reason, context)
            return (_order(context, order, index),)


async def _open(held: Lease, context: ElectionContext) -> str:
    return await context.consul.session_create(
        f"triton-sidecar {context.instance}",
        ttl=held.ttl,
        lock_delay=context.lock_delay,
        service_checks=context.checks(),
    )


async def write_proof(order: Order, why: str, context: ElectionContext) -> None:
    """Answer an order as its candidate; `why` says why it is not fit, "" if it is."""
    proof = Proof(order.id, context.instance, not why, why, context.wall())
    await _write(context, Set(orders.proof_key(context.service), lock.dumps(proof)))


def new_order(kind: Kind, to: str | None, reason: str, context: ElectionContext) -> Order:
    """An order by this instance, due now: the role goes to an instance, or to the best one."""
    return Order(context.order_id(), kind, context.wall(), context.instance, to, reason)


async def write_order(order: Order, index: int, context: ElectionContext) -> None:
    """Write an order over the one with this ModifyIndex, 0 for none.

    Raises:
        Conflict: the order's key has changed.
    """
    await _write(context, _order(context, order, index))


async def _acquire(
    action: Acquire, view: ElectionView, session: str, context: ElectionContext
) -> int:
    """Take the lock, unless the epoch has changed since the decision."""
    service, wall, own = context.service, context.wall(), view.own
    seen = view.state.lock.epoch if view.state else 0
    since = timestamp(wall)
    # A cold standby adopts its predecessor's model set, and must match it once it has loaded.
    last = view.state.lock.last if view.state else None
    served = own.model_set or (last.model_set if last else "")
    claim = lock.dumps(Claim(context.instance, session, since, own.priority, served))
    entry = history.Entry(
        at=since,
        to=context.instance,
        cause=action.cause,
        by=_predecessor(view),
        model_set=served,
        without=_without(view, context),
    )
    operations: list[Operation] = [
        api.Lock(lock.lock_key(service), claim, session),
        Set(lock.epoch_key(service), claim, seen),
        Set(history.key(service, entry), lock.dumps(entry), 0),
    ]
    if action.order:
        operations += _closing(action.order, context, _missed(action.order, context.instance))
    return (await context.consul.transact(*operations))[lock.epoch_key(service)]


def _restated(view: ElectionView, session: str, context: ElectionContext) -> Set:
    """Write what the holder serves now to the lock; the epoch stays as it is."""
    last = view.state.lock.last if view.state else None
    claim = last or Claim(context.instance, session)
    current = replace(claim, priority=view.own.priority, model_set=view.own.model_set)
    return Set(lock.lock_key(context.service), lock.dumps(current))


async def _release(
    action: Release, view: ElectionView, session: str, context: ElectionContext
) -> None:
    """Release the lock and record why; a lock that is no longer held needs no record."""
    key, wall = lock.lock_key(context.service), context.wall()
    last = view.state.lock.last if view.state else None
    # The last reading may not show its own acquisition yet.
    own = last if last and last.session == session else None
    claim = own or Claim(context.instance, session, timestamp(wall))
    ended = replace(claim, ended=Ended(action.why, wall, action.to, action.order))
    with suppress(Conflict):
        await context.consul.transact(Unlock(key, lock.dumps(ended), session))


async def _write(context: ElectionContext, *operations: Operation) -> None:
    await context.consul.transact(*operations)


def _held(session: str, context: ElectionContext) -> HoldsLock:
    """The condition that it still holds the lock: a delayed request must not undo a successor's."""
    return HoldsLock(lock.lock_key(context.service), session)


def _order(context: ElectionContext, order: Order, index: int) -> Set:
    return Set(orders.order_key(context.service), lock.dumps(order), index)


def _closing(order: Order, context: ElectionContext, why: str) -> tuple[Operation, ...]:
    """Delete an order and record its outcome."""
    outcome = Outcome(order.id, not why, why, context.wall())
    key = orders.order_key(context.service)
    return (
        Unchanged(key, order.index),  # it may have been cancelled, and have its outcome
        Delete(key, order.index),
        Set(orders.outcome_key(context.service), lock.dumps(outcome)),
    )


def _missed(order: Order, instance: str) -> str:
    """Why an order failed although the role has moved, or ""."""
    if order.to in (None, instance):
        return ""
    return f"{instance} took the role because {order.to} did not take it in time"


def _predecessor(view: ElectionView) -> str:
    last = view.state.lock.last if view.state else None
    return last.instance if last else ""


def _without(view: ElectionView, context: ElectionContext) -> float | None:
    """Seconds without a primary: since the graceful end, or since the lock was seen free."""
    last = view.state.lock.last if view.state else None
    if last is None:
        return None
    seen = context.now() - view.free_since if view.free_since is not None else 0.0
    recorded = context.wall() - last.ended.at if last.ended else 0.0
    return round(max(seen, recorded, 0.0), 3)
