"""The operator's reads and writes of a service's election in Consul.

Acts: asyncio.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from sidecar.consul.api import ConsulApi, Delete, Operation, Set
from sidecar.election.keys import history, lock, orders
from sidecar.election.keys.history import DrillEntry, Entry
from sidecar.election.keys.orders import Order, Outcome, Pause
from sidecar.injection import keys as drill_keys
from sidecar.operator import plans, service_status
from sidecar.operator.plans import Plan
from sidecar.operator.service_status import ServiceStatus
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import Conflict, Unavailable

_ATTEMPTS = 5  # to write a key that others write at the same time


@dataclass(frozen=True, slots=True)
class OperatorClient:
    """What the operator's requests need.

    `by` is the operator, `declared` the digest of the declared model set, or "". `order_id` makes a
    unique id.
    """

    consul: ConsulApi
    service: str
    control_plane: str
    declared: str
    by: str
    clock: Clock
    order_id: Callable[[], str]


async def read_status(client: OperatorClient) -> ServiceStatus:
    """Read the status of a service.

    Raises:
        Unavailable: Consul does not answer, or its servers have no leader.
        Rejected: Consul refuses the token.
    """
    catalog, keys, drills = await asyncio.gather(
        client.consul.health_service(client.service, consistent=True),
        client.consul.kv_prefix(lock.prefix(client.service), consistent=True),
        client.consul.kv_prefix(drill_keys.prefix(client.service), consistent=True),
    )
    if not (catalog.known_leader and keys.known_leader):
        raise Unavailable("Consul's servers have no leader")
    wall = client.clock.wall()
    seen = service_status.read(
        client.service, catalog.value, keys.value, keys.index, wall, client.declared
    )
    return replace(seen, drill=drill_keys.read(client.service, drills.value).running)


async def read_known_status(client: OperatorClient) -> ServiceStatus:
    """Read the status of a service that exists or existed.

    Raises:
        Conflict: nothing is known about it.
        SidecarError: as `read_status` does.
    """
    seen = await read_status(client)
    plans.refuse_unknown(seen)
    return seen


async def write_order(client: OperatorClient, plan: Plan) -> Order:
    """Write an order; returns it with its index.

    Raises:
        Conflict: another order was written first.
        SidecarError: Consul does not answer or refuses.
    """
    key = orders.order_key(client.service)
    operations: list[Operation] = [Set(key, lock.dumps(plan.order), plan.index)]
    if plan.replaced:
        why = f"replaced by a {plans.describe(plan.order)}"
        operations.append(_outcome(client, plan.replaced.id, why))
    try:
        written = await client.consul.transact(*operations)
    except Conflict:
        raise Conflict("another order was just given; see `list`") from None
    return replace(plan.order, index=written[key])


async def withdraw_order(client: OperatorClient, given: Order, why: str) -> bool:
    """Delete an order; returns whether it was still pending.

    Raises:
        SidecarError: Consul does not answer or refuses.
    """
    for _ in range(_ATTEMPTS):
        seen = await read_status(client)
        if seen.state.order is None or seen.state.order.id != given.id:
            return False
        if await _removed(client, seen, given.id, why):
            return True
    return False


async def cancel_pending(client: OperatorClient) -> str | None:
    """Cancel the pending order; returns its description, None if there is none.

    Raises:
        Conflict: nothing is known about the service, or the order keeps changing.
        SidecarError: Consul does not answer or refuses.
    """
    for _ in range(_ATTEMPTS):
        seen = await read_status(client)
        if not seen.index(orders.order_key(client.service)):
            plans.refuse_unknown(seen)
            return None
        pending = seen.state.order
        given = pending.id if pending else ""
        if await _removed(client, seen, given, f"cancelled by {client.by}"):
            return plans.describe(pending) if pending else "something that could not be read"
    raise Conflict("the order keeps changing; try again")


async def pause(
    client: OperatorClient, seconds: float | None, reason: str
) -> tuple[Pause, Pause | None]:
    """Pause automation, for so many seconds or until resumed; returns this pause and the last.

    Raises:
        Conflict: the service has no instances, so a pause would have no effect.
        SidecarError: Consul does not answer or refuses.
    """
    now = client.clock.wall()
    new = Pause(now, client.by, reason, None if seconds is None else now + seconds)
    seen = await read_status(client)
    plans.refuse_empty(seen)
    before = seen.state.pause
    await client.consul.transact(Set(orders.pause_key(client.service), lock.dumps(new)))
    return new, before if before and before.active(now) else None


async def resume(client: OperatorClient) -> Pause | None:
    """Resume automation; returns the pause that it ends, None if there was none.

    Raises:
        Conflict: the service has no instances, or the pause keeps changing.
        SidecarError: Consul does not answer or refuses.
    """
    key = orders.pause_key(client.service)
    for _ in range(_ATTEMPTS):
        seen = await read_status(client)
        plans.refuse_empty(seen)
        if not (index := seen.index(key)):
            return None
        try:
            await client.consul.transact(Delete(key, index))
        except Conflict:
            continue
        paused = seen.state.pause
        return paused if paused and paused.active(seen.wall) else None
    raise Conflict("the pause keeps changing; try again")


@dataclass(frozen=True, slots=True)
class History:
    """Changes of the role, and drills, each oldest first."""

    entries: tuple[Entry, ...]
    drills: tuple[DrillEntry, ...]


async def read_history(client: OperatorClient, newest: int) -> History:
    """The newest entries of the history, of each kind so many.

    Raises:
        Conflict: nothing is known about the service.
        SidecarError: Consul does not answer or refuses.
    """
    answer = await client.consul.kv_prefix(history.prefix(client.service), consistent=True)
    if not answer.known_leader:
        raise Unavailable("Consul's servers have no leader")
    if not answer.value:
        await read_known_status(client)
    return History(
        history.read(client.service, answer.value)[-newest:],
        history.read_drills(client.service, answer.value)[-newest:],
    )


async def _removed(client: OperatorClient, seen: ServiceStatus, given: str, why: str) -> bool:
    """Delete an order as it was read; False if the keys have changed."""
    order_key, outcome_key = orders.order_key(client.service), orders.outcome_key(client.service)
    ended = _outcome(client, given, why)
    # An order that was just carried out is gone as well, and its own outcome counts.
    ended = replace(ended, index=seen.index(outcome_key))
    try:
        await client.consul.transact(Delete(order_key, seen.index(order_key)), ended)
    except Conflict:
        return False
    return True


def _outcome(client: OperatorClient, order_id: str, why: str) -> Set:
    ended = Outcome(order_id, False, why, client.clock.wall())
    return Set(orders.outcome_key(client.service), lock.dumps(ended))
