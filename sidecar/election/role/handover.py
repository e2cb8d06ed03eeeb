"""The handover before a graceful stop or maintenance, to a candidate that proves itself.

Why: docs/decisions/0053-handover-before-withdrawal.md.

Acts: through what it imports or is given.
"""

from contextlib import suppress

from sidecar.election import candidates, execute
from sidecar.election.execute import ElectionContext
from sidecar.election.keys import lock, orders
from sidecar.election.keys.orders import ElectionState, Kind, Order
from sidecar.election.lease import Role
from sidecar.election.loop import Election
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import Conflict, SidecarError, Unavailable
from sidecar.runtime.latest import first_of

_RETRY = 0.5  # seconds between attempts while Consul does not answer
_LOOK = 0.25  # seconds between checks of whether the successor serves
_NOTICED = 1.0  # seconds for every Envoy to notice that it serves: they check four times a second
STOPS = "the primary is stopping"


async def relieve(election: Election, clock: Clock, why: str, patience: float) -> None:
    """Return when another instance serves instead of this one, or none will soon.

    A cold standby must load its models first.

    Args:
        election: of the serving instance that must leave service.
        clock: paces attempts.
        why: the reason for the order that moves the role.
        patience: seconds that a successor may take until it serves.
    """
    state = election.state.value
    if _holds(election) and state is not None:
        try:
            await first_of(clock, orders.HAND_OVER, offer(election, state, clock, why))
        except Conflict:  # another order is pending, and may move the role as well
            await first_of(clock, orders.HAND_OVER, _lost(election))
        except SidecarError:  # the client has reported it
            return
        if _holds(election):
            return
        await first_of(clock, orders.HAND_OVER, _succeeded(election))
    if _successor(election) is not None:
        await first_of(clock, patience, _relieved(election, clock))


def _holds(election: Election) -> bool:
    return election.role is Role.PRIMARY


def _successor(election: Election) -> str | None:
    """The other instance that holds the lock, if one does."""
    state = election.state.value
    holder = state.lock.instance if state else None
    return None if holder == election.context.instance else holder


async def _lost(election: Election) -> None:
    async for role, _ in election.role_epoch:
        if role is not Role.PRIMARY:
            return


async def _succeeded(election: Election) -> None:
    async for _ in election.state:
        if _successor(election) is not None:
            return


async def _relieved(election: Election, clock: Clock) -> None:
    """Wait until another instance serves and Envoys know it, or the lock's holder won't soon.

    In strict mode only the holder serves.
    """
    context = election.context
    while (holder := _successor(election)) is not None:
        with suppress(SidecarError):  # the client has reported it
            entries = (await context.consul.health_service(context.service)).value
            others = [each for each in candidates.read(entries) if each.id != context.instance]
            if any(each.serving for each in others if each.id == holder or not election.strict):
                await clock.sleep(_NOTICED)
                return
            if any(each.maintenance for each in others if each.id == holder):
                return
        await clock.sleep(clock.jitter(_LOOK, 0.2))


async def offer(election: Election, state: ElectionState, clock: Clock, why: str = STOPS) -> None:
    """Order the role to the best candidate, and wait until it has moved or the order has failed.

    Retries while Consul does not answer: the caller sets the deadline.

    Args:
        election: of this instance, which is the primary.
        state: the election's keys as last read.
        clock: paces attempts.
        why: the reason for the order.

    Raises:
        Conflict: another order is pending, and stays.
        SidecarError: Consul refuses.
    """
    order = execute.new_order(Kind.STOP, None, why, election.context)
    while election.role is Role.PRIMARY and not _shows(state, order):
        if (pending := state.order) and clock.wall() < pending.until:
            raise Conflict(f"another order is pending: {pending.sentence}")
        if await _gave(order, state, election.context, clock):
            break
        state = await _look(election.context, clock)
    async for seen in election.state:
        ended = seen and seen.outcome and seen.outcome.order == order.id
        if ended or election.role is not Role.PRIMARY:
            return


def _shows(state: ElectionState, order: Order) -> bool:
    """Whether the order was written although the answer was lost."""
    given, over = state.order, state.outcome
    return order.id in (given and given.id, over and over.order)


async def _gave(order: Order, state: ElectionState, context: ElectionContext, clock: Clock) -> bool:
    """Write an order; False if the keys must be read again to know whether it was written."""
    try:
        await execute.write_order(order, state.order_index, context)
    except Conflict:  # another order, this one, or the one before it has ended
        return False
    except Unavailable:  # the client has reported it
        await clock.sleep(clock.jitter(_RETRY, 0.2))
        return False
    return True


async def _look(context: ElectionContext, clock: Clock) -> ElectionState:
    """Read the election's keys, with retries until Consul answers."""
    while True:
        try:
            answer = await context.consul.kv_prefix(lock.prefix(context.service))
        except Unavailable:
            await clock.sleep(clock.jitter(_RETRY, 0.2))
        else:
            return orders.read(context.service, answer.value, answer.index)
