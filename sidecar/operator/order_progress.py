"""How far an order has come, as the board says. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sidecar.election.keys.orders import ElectionState, Order
from sidecar.operator.service_status import settling_text

if TYPE_CHECKING:
    from sidecar.control_planes.rpc import Failures


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened, `at` seconds after the time of the order.

    `settling_seconds` is there if it is that the candidate settles, and for so long.
    """

    at: float
    what: str
    settling_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Moved:
    """The role is with `primary`.

    `cost` is None where nobody has counted, over `over` seconds: 0 if nobody was asked.
    """

    primary: str
    epoch: int
    cost: "Failures | None" = None
    over: float = 0.0


@dataclass(frozen=True, slots=True)
class OrderProgress:
    """What was seen of an order so far.

    `index` is the newest ModifyIndex of its key, 0 once it is off the board. `session` is the one
    that held the lock when it was given, `freed` whether that lets go of it. `primary` and `epoch`
    are there when it is done, `failed` says why it failed. `unfit` is what the candidate
    says against itself.
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
        """Whether nothing more will come of it.

        A holder drops the order of a candidate that is not fit; without one nobody does.
        """
        alone = bool(self.unfit) and (self.freed or self.session is None)
        return self.primary is not None or bool(self.failed) or alone

    @property
    def revocable(self) -> bool:
        """Whether it can still be taken back: nobody has let go of the role for it."""
        return bool(self.index) and (not self.freed or self.session is None)


def begun(order: Order, state: ElectionState) -> OrderProgress:
    """Right after an order was given, on the board that was seen before."""
    return OrderProgress(index=order.index, session=state.lock.session, to=order.to)


def advance(known: OrderProgress, order: Order, state: ElectionState) -> OrderProgress:
    """What is known after another look at the board; one from before the order says nothing."""
    if state.lock.index < order.index or known.over:
        return known
    present = state.order if state.order and state.order.id == order.id else None
    proof = state.proof if state.proof and state.proof.order == order.id else None
    # Who was chosen, also if that was not seen before the order was off the board.
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
    """What has happened between two looks, in words."""
    if after.to and after.to != before.to:
        yield f"{after.to} is the candidate"
    if after.proven and not before.proven:
        yield f"{after.to} has proved itself"
    if after.freed and not before.freed:
        yield f"{holder or 'the old primary'} has released the role"
    if after.primary and not before.primary:
        yield f"{after.primary} is primary, epoch {after.epoch}"


def stopped_waiting(known: OrderProgress) -> str:
    """What an operator is told who stops waiting."""
    if known.primary:
        return stopped_following(known.primary, known.epoch)
    return "stopped waiting; the order stands"


def stopped_following(primary: str, epoch: int) -> str:
    """The same, once the role has moved."""
    return f"{primary} is primary, epoch {epoch}; stopped waiting for all Envoys to follow"


def describe(known: OrderProgress, holder: str | None, settles: float = 0.0) -> str:
    """Where an order stands that has not come to its end.

    `settles` is for how many seconds more its candidate has to settle, 0 if for none.
    """
    to = known.to or "nobody"
    if known.freed:
        return f"{holder or 'the old primary'} has released the role, {to} has not taken it yet"
    if known.proven:
        return f"{to} has proved itself, {holder or 'nobody'} has not released the role"
    if known.to is None:
        return f"{holder} has not named a candidate"
    return f"{to} is {settling_text(settles)}" if settles > 0 else f"{to} has not proved itself"
