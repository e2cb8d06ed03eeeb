"""Before an orderly stop: a candidate that proves itself may have the role first."""

from sidecar.clock import Clock
from sidecar.election import lock, orders, perform
from sidecar.election.lease import Role
from sidecar.election.loop import Election
from sidecar.election.orders import Board, Kind, Order
from sidecar.election.perform import Means
from sidecar.errors import Conflict, Unavailable

_RETRY = 0.5  # seconds between attempts while Consul does not answer


async def offer(election: Election, board: Board, clock: Clock) -> None:
    """Order the role to the best candidate, and wait until it is there or has come to nothing.

    While Consul does not answer it goes on trying: the caller sets the deadline.

    Args:
        election: the own one, as primary.
        board: what Consul's keys say, as far as that is known.
        clock: paces attempts.

    Raises:
        Conflict: another order is pending; it stays.
        SidecarError: Consul refuses.
    """
    order = perform.ordered(Kind.STOP, None, "the primary is told to stop", election.means)
    while election.role is Role.PRIMARY and not _shows(board, order):
        if (pending := board.order) and clock.wall() < pending.until:
            raise Conflict(f"another order is pending: {pending.sentence}")
        if await _gave(order, board, election.means, clock):
            break
        board = await _look(election.means, clock)
    async for seen in election.board:
        ended = seen and seen.outcome and seen.outcome.order == order.id
        if ended or election.role is not Role.PRIMARY:
            return


def _shows(board: Board, order: Order) -> bool:
    """Whether an order was given, though nobody has heard that."""
    given, over = board.order, board.outcome
    return order.id in (given and given.id, over and over.order)


async def _gave(order: Order, board: Board, means: Means, clock: Clock) -> bool:
    """Whether an order was given for certain; if not the board has to be looked at anew."""
    try:
        await perform.ask(order, board.order_index, means)
    except Conflict:  # by another order, or by this one, or what was in its place is over
        return False
    except Unavailable:  # the door has reported it
        await clock.sleep(clock.jitter(_RETRY, 0.2))
        return False
    return True


async def _look(means: Means, clock: Clock) -> Board:
    """The board as Consul has it now; asked until it is answered."""
    while True:
        try:
            answer = await means.consul.kv_prefix(lock.prefix(means.service))
        except Unavailable:
            await clock.sleep(clock.jitter(_RETRY, 0.2))
        else:
            return orders.read(means.service, answer.value, answer.index)
