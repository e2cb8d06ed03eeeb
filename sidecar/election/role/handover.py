"""Before an orderly stop, or maintenance: a candidate that proves itself may have the role first.

Why so: docs/decisions/0053-handover-before-withdrawal.md.
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
_LOOK = 0.25  # seconds between looks at whether the successor serves
_NOTICED = 1.0  # seconds in which every Envoy has seen that it does: they look four times a second
STOPS = "the primary is told to stop"


async def relieve(election: Election, clock: Clock, why: str, patience: float) -> None:
    """Return when another instance serves instead of this one, or none will soon.

    A cold standby has to load its models first.

    Args:
        election: of the instance that serves and is to be taken out of service.
        clock: paces attempts.
        why: the reason of the order that moves the role.
        patience: seconds for which a successor may take to serve.
    """
    state = election.state.value
    if _holds(election) and state is not None:
        try:
            await first_of(clock, orders.HAND_OVER, offer(election, state, clock, why))
        except Conflict:  # another order is pending, and may move the role as well
            await first_of(clock, orders.HAND_OVER, _lost(election))
        except SidecarError:  # the door has reported it
            return
        if _holds(election):
            return
        await first_of(clock, orders.HAND_OVER, _succeeded(election))
    if _successor(election) is not None:
        await first_of(clock, patience, _relieved(election, clock))


def _holds(election: Election) -> bool:
    return election.role is Role.PRIMARY


def _successor(election: Election) -> str | None:
    """Who else holds the lock."""
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
    """Wait until somebody else serves, and Envoys know; or until the lock's holder won't soon.

    In mode strict only the holder does.
    """
    context = election.context
    while (holder := _successor(election)) is not None:
        with suppress(SidecarError):  # the door has reported it
            entries = (await context.consul.health_service(context.service)).value
            others = [each for each in candidates.read(entries) if each.id != context.instance]
            if any(each.serving for each in others if each.id == holder or not election.strict):
                await clock.sleep(_NOTICED)
                return
            if any(each.maintenance for each in others if each.id == holder):
                return
        await clock.sleep(clock.jitter(_LOOK, 0.2))


async def offer(election: Election, state: ElectionState, clock: Clock, why: str = STOPS) -> None:
    """Order the role to the best candidate, and wait until it is there or has come to nothing.

    While Consul does not answer it goes on trying: the caller sets the deadline.

    Args:
        election: of the primary, which is this instance.
        state: what Consul's keys say, as far as that is known.
        clock: paces attempts.
        why: the reason of the order.

    Raises:
        Conflict: another order is pending; it stays.
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
    """Whether an order was given, though nobody has heard that."""
    given, over = state.order, state.outcome
    return order.id in (given and given.id, over and over.order)


async def _gave(order: Order, state: ElectionState, context: ElectionContext, clock: Clock) -> bool:
    """Whether an order was given for certain; if not the board has to be looked at anew."""
    try:
        await execute.write_order(order, state.order_index, context)
    except Conflict:  # by another order, or by this one, or what was in its place is over
        return False
    except Unavailable:  # the door has reported it
        await clock.sleep(clock.jitter(_RETRY, 0.2))
        return False
    return True


async def _look(context: ElectionContext, clock: Clock) -> ElectionState:
    """The board as Consul has it now; asked until it is answered."""
    while True:
        try:
            answer = await context.consul.kv_prefix(lock.prefix(context.service))
        except Unavailable:
            await clock.sleep(clock.jitter(_RETRY, 0.2))
        else:
            return orders.read(context.service, answer.value, answer.index)
