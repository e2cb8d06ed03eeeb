"""What an operator writes on the board, and reads from it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from sidecar.consul.api import ConsulApi, Delete, Operation, Set
from sidecar.election.keys import history, lock, orders
from sidecar.election.keys.history import Entry
from sidecar.election.keys.orders import Order, Outcome, Pause
from sidecar.operator import plans, service_status
from sidecar.operator.plans import Plan
from sidecar.operator.service_status import ServiceStatus
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import Conflict, Unavailable

_ATTEMPTS = 5  # at writing what somebody else writes at the same time


@dataclass(frozen=True, slots=True)
class OperatorClient:
    """What an operator works with.

    `by` is who that is, `declared` the digest of the model set that is declared, or "". `order_id`
    makes an id that nobody else has.
    """

    consul: ConsulApi
    service: str
    control_plane: str
    declared: str
    by: str
    clock: Clock
    order_id: Callable[[], str]


async def look(desk: OperatorClient) -> ServiceStatus:
    """How things stand.

    Raises:
        Unavailable: Consul does not answer, or its servers have no leader.
        Rejected: it refuses the token.
    """
    catalog, keys = await asyncio.gather(
        desk.consul.health_service(desk.service, consistent=True),
        desk.consul.kv_prefix(lock.prefix(desk.service), consistent=True),
    )
    if not (catalog.known_leader and keys.known_leader):
        raise Unavailable("Consul's servers have no leader")
    wall = desk.clock.wall()
    return service_status.read(
        desk.service, catalog.value, keys.value, keys.index, wall, desk.declared
    )


async def inspect(desk: OperatorClient) -> ServiceStatus:
    """How things stand with a service that there is, or was.

    Raises:
        Conflict: nothing is known of it.
        SidecarError: as `look` does.
    """
    seen = await look(desk)
    plans.refuse_unknown(seen)
    return seen


async def order(desk: OperatorClient, plan: Plan) -> Order:
    """Write an order; gives it with its index.

    Raises:
        Conflict: somebody else was faster.
        SidecarError: Consul does not answer or refuses.
    """
    key = orders.order_key(desk.service)
    operations: list[Operation] = [Set(key, lock.dumps(plan.order), plan.index)]
    if plan.replaced:
        why = f"replaced by a {plans.told(plan.order)}"
        operations.append(_outcome(desk, plan.replaced.id, why))
    try:
        written = await desk.consul.transact(*operations)
    except Conflict:
        raise Conflict("another order was just given; see `list`") from None
    return replace(plan.order, index=written[key])


async def take_back(desk: OperatorClient, given: Order, why: str) -> bool:
    """Take an order off the board; whether it was there still.

    Raises:
        SidecarError: Consul does not answer or refuses.
    """
    for _ in range(_ATTEMPTS):
        seen = await look(desk)
        if seen.board.order is None or seen.board.order.id != given.id:
            return False
        if await _removed(desk, seen, given.id, why):
            return True
    return False


async def flush(desk: OperatorClient) -> str | None:
    """Cancel the order on the board; gives what it was, None if there is none.

    Raises:
        Conflict: nothing is known of the service, or it changes all the time.
        SidecarError: Consul does not answer or refuses.
    """
    for _ in range(_ATTEMPTS):
        seen = await look(desk)
        if not seen.index(orders.order_key(desk.service)):
            plans.refuse_unknown(seen)
            return None
        pending = seen.board.order
        given = pending.id if pending else ""
        if await _removed(desk, seen, given, f"cancelled by {desk.by}"):
            return plans.told(pending) if pending else "something that could not be read"
    raise Conflict("the order keeps changing; try again")


async def pause(
    desk: OperatorClient, seconds: float | None, reason: str
) -> tuple[Pause, Pause | None]:
    """Turn automation off, for so many seconds or until it is resumed; gives it and the last.

    Raises:
        Conflict: nothing is known of the service, so nobody would heed it.
        SidecarError: Consul does not answer or refuses.
    """
    now = desk.clock.wall()
    new = Pause(now, desk.by, reason, None if seconds is None else now + seconds)
    seen = await look(desk)
    plans.refuse_empty(seen)
    before = seen.board.pause
    await desk.consul.transact(Set(orders.pause_key(desk.service), lock.dumps(new)))
    return new, before if before and before.active(now) else None


async def resume(desk: OperatorClient) -> Pause | None:
    """Turn automation on again; gives the pause that was, None if there was none.

    Raises:
        Conflict: nothing is known of the service, or it changes all the time.
        SidecarError: Consul does not answer or refuses.
    """
    key = orders.pause_key(desk.service)
    for _ in range(_ATTEMPTS):
        seen = await look(desk)
        plans.refuse_empty(seen)
        if not (index := seen.index(key)):
            return None
        try:
            await desk.consul.transact(Delete(key, index))
        except Conflict:
            continue
        paused = seen.board.pause
        return paused if paused and paused.active(seen.wall) else None
    raise Conflict("the pause keeps changing; try again")


async def past(desk: OperatorClient, newest: int) -> tuple[Entry, ...]:
    """The newest entries of the history, oldest first.

    Raises:
        Conflict: nothing is known of the service.
        SidecarError: Consul does not answer or refuses.
    """
    answer = await desk.consul.kv_prefix(history.prefix(desk.service), consistent=True)
    if not answer.known_leader:
        raise Unavailable("Consul's servers have no leader")
    if not answer.value:
        await inspect(desk)
    return history.read(desk.service, answer.value)[-newest:]


async def _removed(desk: OperatorClient, seen: ServiceStatus, given: str, why: str) -> bool:
    """Take an order off the board as it was seen; False if that has changed."""
    order_key, outcome_key = orders.order_key(desk.service), orders.outcome_key(desk.service)
    ended = _outcome(desk, given, why)
    # An order that is just done is gone as well, and its outcome is the one that counts.
    ended = replace(ended, index=seen.index(outcome_key))
    try:
        await desk.consul.transact(Delete(order_key, seen.index(order_key)), ended)
    except Conflict:
        return False
    return True


def _outcome(desk: OperatorClient, order_id: str, why: str) -> Set:
    ended = Outcome(order_id, False, why, desk.clock.wall())
    return Set(orders.outcome_key(desk.service), lock.dumps(ended))
