"""The progress of an order, as read from the election's keys. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sidecar.election.keys.orders import ElectionState, Order
from sidecar.operator.service_status import settling_text

if TYPE_CHECKING:
    from sidecar.control_planes.rpc import Failures


@dataclass(frozen=True, slots=True)
class Step:
    """An event, `at` seconds after the order's time.

    `settling_seconds` is set if the candidate must settle first, for that long.
    """

    at: float
    what: str
    settling_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Moved:
    """The role has moved to `primary`.

    `cost` covers `over` seconds; it is None if no control plane counted, and `over` 0 if none was
    queried.
    """

    primary: str
    epoch: int
    cost: "Failures | None" = None
    over: float = 0.0


@dataclass(frozen=True, slots=True)
class OrderProgress:
    """What is known about an order so far.

    `index` is the newest ModifyIndex of its key, 0 once it is deleted. `session` held the lock when
    the order was written, `freed` is whether it has released it. `primary` and `epoch` are set when
    the order is done, `failed` says why it failed, and `unfit` why the candidate says it is not
    fit.
    """

    index: int
    session: str | None
    to: str | None
    proven: bool = False
    unfit: str = ""
    freed: bool = False
    primary: str | None = None
    epoch: int = 0
    failed: str = ""

    @property
    def over(self) -> bool:
        """Whether it has ended.

        A holder cancels an order whose candidate is not fit; without a holder nothing does.
        """
        alone = bool(self.unfit) and (self.freed or self.session is None)
        return self.primary is not None or bool(self.failed) or alone

    @property
    def revocable(self) -> bool:
        """Whether it can still be withdrawn: the role has not been released for it."""
        return bool(self.index) and (not self.freed or self.session is None)


def begun(order: Order, state: ElectionState) -> OrderProgress:
    """Right after an order was written, from the state that was read before."""
    return OrderProgress(index=order.index, session=state.lock.session, to=order.to)


def advance(known: OrderProgress, order: Order, state: ElectionState) -> OrderProgress:
    """The progress after another reading; one from before the order says nothing."""
    if state.lock.index < order.index or known.over:
        return known
    present = state.order if state.order and state.order.id == order.id else None
    proof = state.proof if state.proof and state.proof.order == order.id else None
    # The chosen candidate, even if the order was deleted before the choice was read.
    to = (present and present.to) or (proof.instance if proof else known.to)
    known = replace(
        known,
        index=present.index if present else 0,
        to=to,
        proven=known.proven or bool(proof and proof.fit),
        unfit=known.unfit or (proof.why if proof and not proof.fit else ""),
        freed=known.freed or (known.session is not None and state.lock.session != known.session),
    )
    outcome = state.outcome if state.outcome and state.outcome.order == order.id else None
    if outcome and outcome.done:
        return replace(known, primary=state.lock.instance or to, epoch=state.lock.epoch)
    if outcome:
        return replace(known, failed=outcome.why)
    return known if present else replace(known, failed="the order was removed")


def steps(
    before: OrderProgress, after: OrderProgress, order: Order, holder: str | None
) -> Iterator[str]:
    """What has happened between two readings, as text."""
    if after.to and after.to != before.to:
        yield f"{after.to} is the candidate"
    if after.proven and not before.proven:
        yield f"{after.to} has proved itself"
    if after.freed and not before.freed:
        yield f"{holder or 'the old primary'} has released the role"
    if after.primary and not before.primary:
        yield f"{after.primary} is primary, epoch {after.epoch}"


def stopped_waiting(known: OrderProgress) -> str:
    """The message for an operator who stops waiting."""
    if known.primary:
        return stopped_following(known.primary, known.epoch)
    return "stopped waiting; the order stands"


def stopped_following(primary: str, epoch: int) -> str:
    """The message for an operator who stops waiting after the role has moved."""
    return f"{primary} is primary, epoch {epoch}; stopped waiting for all Envoys to follow"


def describe(known: OrderProgress, holder: str | None, settles: float = 0.0) -> str:
    """Where an order stands that has not ended.

    `settles` is how many more seconds its candidate must settle, 0 for none.
    """
    to, old = known.to, holder or "the old primary"
    if known.freed:
        return f"{old} has released the role, {to or 'the best candidate'} has not taken it yet"
    if known.proven:
        return f"{to} has proved itself, {old} has not released the role"
    if known.to is None:
        return f"{holder} has not named a candidate"
    return f"{to} is {settling_text(settles)}" if settles > 0 else f"{to} has not proved itself"
