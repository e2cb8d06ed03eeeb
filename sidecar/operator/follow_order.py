"""Follows an order until the role and the traffic have moved, and reads what it cost.

Acts: asyncio.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from sidecar.consul import blocking_query
from sidecar.consul.api import KVEntry, QueryResult
from sidecar.control_planes import rpc
from sidecar.control_planes.rpc import Agreement, Failures
from sidecar.control_planes.watch import PlaneDirectory
from sidecar.election import candidates
from sidecar.election.keys import lock, orders
from sidecar.election.keys.orders import Kind, Order
from sidecar.operator import operator_client, order_progress, service_status
from sidecar.operator.operator_client import OperatorClient
from sidecar.operator.order_progress import Moved, OrderProgress, Step
from sidecar.operator.service_status import ServiceStatus
from sidecar.runtime.errors import Conflict, DeadlineExceeded, Interrupted, SidecarError
from sidecar.runtime.latest import Latest, first_of
from sidecar.runtime.timestamps import timestamp

_WAIT = 30.0  # seconds that a blocking query may block
_RETRY = 0.3
_PATIENCE = 3.0  # seconds for the holder to follow an order with force
_COUNTED = 2.0  # seconds until Envoys have reported what failed
_GLANCE = 1.0  # seconds between readings of a candidate that may be settling


async def wait_until_moved(
    client: OperatorClient,
    order: Order,
    before: ServiceStatus,
    timeout: float,
    tell: Callable[[Step], None],
) -> Moved:
    """Wait until an order is carried out: the role is with the new primary.

    Args:
        client: the operator's client.
        order: the order as written.
        before: the status before the order.
        timeout: seconds after the order's time. Then it is withdrawn, unless the role is free.
        tell: called with each step.

    Raises:
        Conflict: it failed; the message says why.
        DeadlineExceeded: it takes longer; the message says where it stands.
        Interrupted: the task was cancelled, as by Ctrl-C; the message says how far it got.
        SidecarError: Consul refuses.
    """
    say = _saying(client, order, tell)
    later = order.at > client.clock.wall()
    say(f"ordered for {timestamp(order.at)}" if later else "ordered")
    known: Latest[OrderProgress] = Latest(order_progress.begun(order, before.state))
    settled_at: Latest[float] = Latest(0.0)
    watcher = asyncio.ensure_future(_watch(client, order, before.primary, known, say))
    settling = asyncio.ensure_future(_watch_settling(client, order, known, settled_at, say))
    try:
        if order.force:
            await _force(client, known, watcher, say)
        left = timeout - (client.clock.wall() - order.at)
        await first_of(client.clock, max(left, 0.0), _over(known), asyncio.shield(watcher))
    except asyncio.CancelledError:  # Ctrl-C
        raise Interrupted(order_progress.stopped_waiting(known.value)) from None
    finally:
        watcher.cancel()
        settling.cancel()
    left = settled_at.value - client.clock.wall()
    await _settle(client, order, before.primary, known.value, timeout, max(left, 0.0))
    return Moved(known.value.primary or "", known.value.epoch)


async def wait_until_acknowledged(
    client: OperatorClient,
    order: Order,
    before: ServiceStatus,
    moved: Moved,
    timeout: float,
    tell: Callable[[Step], None],
) -> None:
    """Wait until all connected Envoys have acknowledged the new primary.

    Arguments as for `wait_until_moved`, which returned `moved`.

    Raises:
        DeadlineExceeded: some have not acknowledged it in time.
        Interrupted: as for `wait_until_moved`.
        SidecarError: Consul refuses.
    """
    say, primary = _saying(client, order, tell), moved.primary
    cold = any(each.id == primary and each.cold for each in before.candidates)
    if cold:
        say(f"{primary} is loading its models")
    left = max(timeout - (client.clock.wall() - order.at), 1.0)
    register = PlaneDirectory(client.consul, client.control_plane, client.service)

    def waiting(why: str) -> None:
        say(f"waiting: {why}")

    service, clock = client.service, client.clock
    work = rpc.primary_acknowledged(register, service, primary, moved.epoch, clock, waiting)
    try:
        agreed = await asyncio.wait_for(work, left)
    except asyncio.CancelledError:  # Ctrl-C
        raise Interrupted(order_progress.stopped_following(primary, moved.epoch)) from None
    except TimeoutError:
        if cold:
            why = "was a cold standby and does not serve yet"
        else:
            why = "is primary, but not all Envoys have acknowledged it"
        text = f"{primary} {why} within {left:.0f} s; epoch {moved.epoch}"
        raise DeadlineExceeded(f"{text}; follow it with `list`") from None
    say(_agreement(agreed))


async def with_cost(client: OperatorClient, order: Order, moved: Moved) -> Moved:
    """The move with its cost, once Envoys have reported that."""
    await client.clock.sleep(_COUNTED)
    over = client.clock.wall() - order.at + 1.0
    return replace(moved, cost=await _cost(client, over), over=round(over, 1))


class _Say(Protocol):
    def __call__(self, what: str, settles: float | None = None) -> None: ...


def _saying(client: OperatorClient, order: Order, tell: Callable[[Step], None]) -> _Say:
    """A function that reports a step with its time."""

    def say(what: str, settles: float | None = None) -> None:
        tell(Step(round(max(client.clock.wall() - order.at, 0.0), 3), what, settles))

    return say


async def _watch(
    client: OperatorClient,
    order: Order,
    holder: str | None,
    known: Latest[OrderProgress],
    say: Callable[[str], None],
) -> None:
    """Keep an order's progress up to date with the election's keys, forever."""
    prefix = lock.prefix(client.service)

    async def query(index: int) -> QueryResult[tuple[KVEntry, ...]]:
        return await client.consul.kv_prefix(prefix, index=index, wait=_WAIT)

    def see(answer: QueryResult[tuple[KVEntry, ...]]) -> None:
        state = orders.read(client.service, answer.value, answer.index)
        before, after = known.value, order_progress.advance(known.value, order, state)
        for what in order_progress.steps(before, after, order, holder):
            say(what)
        known.set(after)

    await blocking_query.follow(query, see, lambda why: None, client.clock, _RETRY)


async def _watch_settling(
    client: OperatorClient,
    order: Order,
    known: Latest[OrderProgress],
    settled_at: Latest[float],
    say: Callable[[str, float], None],
) -> None:
    """Report how long the candidate must settle before it proves itself, once for each change.

    `settled_at` is when (Unix seconds) it will have settled.
    """
    if order.force or order.kind is Kind.FAILOVER:
        return  # these do not wait for it
    await client.clock.sleep(max(order.at - client.clock.wall(), 0.0))
    while not (known.value.proven or known.value.over):
        with suppress(SidecarError):  # the watch of the keys reports errors
            entries = (await client.consul.health_service(client.service)).value
            found = next((c for c in candidates.read(entries) if c.id == known.value.to), None)
            left = found.settling(client.clock.wall()) if found else 0.0
            if found and found.settled_at and left > 0 and found.settled_at != settled_at.value:
                settled_at.set(found.settled_at)
                say(f"{found.id} is {service_status.settling_text(left)}", round(left, 1))
        await client.clock.sleep(_GLANCE)


async def _force(
    client: OperatorClient,
    known: Latest[OrderProgress],
    watcher: asyncio.Future[None],
    say: Callable[[str], None],
) -> None:
    """Destroy the holder's session if it does not release the role in time."""

    async def freed() -> None:
        async for seen in known:
            if seen.freed or seen.over:
                return

    session = known.value.session
    if session is None:
        return
    await first_of(client.clock, _PATIENCE, freed(), asyncio.shield(watcher))
    if not (known.value.freed or known.value.over):
        say("destroying the primary's session, as it does not release the role")
        await client.consul.session_destroy(session)


async def _over(known: Latest[OrderProgress]) -> None:
    async for seen in known:
        if seen.over:
            return


async def _settle(
    client: OperatorClient,
    order: Order,
    holder: str | None,
    known: OrderProgress,
    timeout: float,
    settles: float,
) -> None:
    """Check that the order has succeeded; else withdraw it if that is still possible.

    Raises:
        Conflict: it failed.
        DeadlineExceeded: it has not ended.
    """
    if known.primary:
        return
    if known.failed:
        raise Conflict(f"the order failed: {known.failed}")
    if known.over:
        why = f"{known.to} is not fit: {known.unfit}"
        await operator_client.withdraw_order(client, order, why)
        raise Conflict(f"the order failed: {why}")
    where = f"timed out after {timeout:g} s: {order_progress.describe(known, holder, settles)}"
    if known.revocable and await operator_client.withdraw_order(
        client, order, f"cancelled by {client.by}"
    ):
        raise DeadlineExceeded(f"{where}; the order was cancelled")
    raise DeadlineExceeded(f"{where}; the order stands, follow it with `list`")


def _agreement(agreed: Agreement) -> str:
    if not agreed.planes:
        return "no control plane follows the service, so there is no Envoy to wait for"
    return f"all Envoys have acknowledged it: {agreed.envoys} of {agreed.envoys}"


async def _cost(client: OperatorClient, seconds: float) -> Failures | None:
    """What the order cost, as counted by control planes; None if none counted or answered."""
    register = PlaneDirectory(client.consul, client.control_plane, client.service)
    try:
        found = await rpc.failures(register, client.service, seconds)
    except SidecarError:
        return None  # the role has moved all the same
    return found if found and found.counted else None
