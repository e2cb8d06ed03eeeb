"""A planned move of the role as a drill: through the operator's own code, under the drill's lock.

It is announced in the history, but is no fault, so it does not count as the last drill.

Acts: asyncio.
"""

import asyncio
from contextlib import suppress

from sidecar.drill.live import announcement, drill_lock, precheck
from sidecar.drill.live.announcement import Outcome
from sidecar.drill.live.drill_lock import uninterrupted
from sidecar.election.keys.history import DrillEntry
from sidecar.injection.keys import Order
from sidecar.operator import follow_order, operator_client, plans
from sidecar.operator.operator_client import OperatorClient
from sidecar.operator.plans import OrderRequest
from sidecar.operator.service_status import ServiceStatus
from sidecar.runtime.errors import Interrupted, SidecarError

_PATIENCE = 60.0  # seconds, as of the operator's verb
_REASON = "a drill"


async def switch_over(client: OperatorClient, scenario: str, victim: str) -> float:
    """Move the role from the victim to the best candidate; returns when all Envoys have followed.

    Gives the moment at which it was ordered, on the client's clock.

    If it is cancelled, the order is withdrawn, unless the role has moved already.

    Raises:
        DrillRefused: it may not begin now; nothing was ordered.
        SidecarError: the order is refused or has failed.
    """
    order = Order(client.order_id(), client.by, client.clock.wall(), scenario, victim)
    async with drill_lock.holding(client, order):
        seen = await operator_client.read_status(client)
        if why := precheck.refusal(seen, victim, None):
            raise why
        entry = announcement.began(order, None)
        await client.consul.transact(announcement.write(client.service, entry))
        outcome: Outcome = "aborted"
        try:
            ordered = await _moved(client, seen)
            outcome = "done"
        finally:
            await uninterrupted(_ended(client, entry, outcome))
    return ordered


async def _moved(client: OperatorClient, seen: ServiceStatus) -> float:
    request = OrderRequest(client.order_id(), client.by, reason=_REASON)
    ordered = client.clock.now()
    order = await operator_client.write_order(client, plans.switchover(seen, request))
    try:
        moved = await follow_order.wait_until_moved(client, order, seen, _PATIENCE, _ignore)
        await follow_order.wait_until_acknowledged(client, order, seen, moved, _PATIENCE, _ignore)
    except Interrupted:
        with suppress(SidecarError):  # then it lapses
            await operator_client.withdraw_order(client, order, f"cancelled by {client.by}")
        raise asyncio.CancelledError from None
    return ordered


async def _ended(client: OperatorClient, entry: DrillEntry, outcome: Outcome) -> None:
    ended = announcement.ended(entry, client.clock.wall(), outcome, "")
    with suppress(SidecarError):  # the role has moved, or not, all the same
        await client.consul.transact(announcement.write(client.service, ended))


def _ignore(step: object) -> None:
    """The drill observes the steps itself."""
