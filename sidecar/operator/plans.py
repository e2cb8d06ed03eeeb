"""Plans an operator's order, or refuses it before anything is written. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from sidecar.election.candidates import Candidate
from sidecar.election.keys import orders
from sidecar.election.keys.orders import Kind, Order
from sidecar.operator.service_status import ServiceStatus
from sidecar.registry.registration import COLD
from sidecar.runtime.errors import Conflict
from sidecar.runtime.timestamps import timestamp


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """A request for an order with an id, by an operator, to an instance or to the best one.

    `at` is when (Unix seconds) to carry it out, None for now.
    """

    id: str
    by: str
    to: str | None = None
    at: float | None = None
    reason: str = ""
    force: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """The order to write, and the ModifyIndex that its key must have.

    `replaced` is the pending order that it replaces, `primary` the present primary. `lost` says
    what it loses or overrides, `terms` the same without details that keep changing.
    """

    order: Order
    index: int
    replaced: Order | None = None
    primary: str | None = None
    lost: tuple[str, ...] = ()
    terms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chance:
    """A candidate's chance of the role: its place, 0 if it is not eligible, and why it is not.

    `settling_seconds` is how long it must settle; a failover does not wait for that.
    """

    id: str
    place: int
    why: tuple[str, ...]
    settling_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class FailoverPreview:
    """The expected result of a failover. `refusal` is why this command would be refused."""

    winner: str | None
    refusal: str
    lost: tuple[str, ...]
    chances: tuple[Chance, ...]


def switchover(seen: ServiceStatus, request: OrderRequest) -> Plan:
    """An order that moves the role from a primary that holds it.

    A scheduled one names no candidate unless the request does: the primary chooses at that time.

    Raises:
        Conflict: it is refused; the message says why.
    """
    if seen.state.lock.session is None:
        raise Conflict("there is no primary; `failover` elects one" + _blind(seen))
    _refuse_second(seen)
    to = request.to
    if to is not None:
        _fit(seen, _named(seen, to))
    elif request.at is None:
        to = _best(seen).id
    elif not seen.others:
        raise Conflict("there is no other instance" + _blind(seen))
    return Plan(
        _order(seen, request, Kind.SWITCHOVER, to), seen.index(orders.order_key(seen.service))
    )


def failover(seen: ServiceStatus, request: OrderRequest) -> Plan:
    """An order that makes an instance primary if there is no healthy primary, or by force.

    Raises:
        Conflict: it is refused; the message says why.
    """
    holder = seen.find(seen.primary) if seen.primary else None
    if holder and holder.serving and not request.force:
        raise Conflict(
            f"{holder.id} is primary and serves ({holder.state}); use `switchover`, or `--force`"
        )
    if not request.force:
        _refuse_second(seen)
    to = _named(seen, request.to) if request.to is not None else _least_bad(seen, request.force)
    if request.force:
        _serving(to)
    else:
        _fit(seen, to)
    order = _order(seen, request, Kind.FAILOVER, to.id)
    lost, terms = (
        tuple(_lost(seen, holder, each, request.force)) for each in (to, replace(to, detail=""))
    )
    index = seen.index(orders.order_key(seen.service))
    return Plan(order, index, seen.pending, seen.primary, lost, terms)


def confirmed(seen: ServiceStatus, request: OrderRequest, agreed: Plan) -> Plan:
    """A failover that the operator has confirmed: it loses nothing that the prompt did not list.

    Raises:
        Conflict: it is refused, or costs more than was confirmed; the message says what.
    """
    plan = failover(seen, replace(request, to=agreed.order.to))
    changed = [
        why for why, term in zip(plan.lost, plan.terms, strict=True) if term not in agreed.terms
    ]
    if plan.primary not in (None, agreed.primary):
        changed.insert(0, f"{plan.primary} has become primary")
    if changed:
        raise Conflict(
            f"things have changed since you confirmed; nothing was written: {'; '.join(changed)}"
        )
    return plan


def preview_failover(seen: ServiceStatus, request: OrderRequest) -> FailoverPreview:
    """Which instance would win a failover, and why the others would not.

    If it is refused because of a healthy primary, which would win without that one.

    Raises:
        Conflict: the named instance does not exist.
    """
    if request.to is not None and request.to != seen.primary:
        _named(seen, request.to)
    try:
        plan = failover(seen, request)
    except Conflict as error:
        fit = [each.id for each in seen.ranking if request.to in (None, each.id)]
        winner = fit[0] if fit else None
        return FailoverPreview(winner, str(error), (), chances(seen, request, winner))
    return FailoverPreview(plan.order.to, "", plan.lost, chances(seen, request, plan.order.to))


def chances(seen: ServiceStatus, request: OrderRequest, winner: str | None) -> tuple[Chance, ...]:
    """Every instance's chance: the winner, the other eligible ones in their order, then the rest.

    With force, the winner may be ineligible. If one is named, no other is eligible.
    """
    may = {each.id: each for each in seen.ranking if request.to in (None, each.id)}
    if winner and (first := seen.find(winner)):
        may = {winner: first} | may
    fit = [
        Chance(each.id, place, (), seen.settling(each))
        for place, each in enumerate(may.values(), start=1)
    ]
    others = [each for each in seen.candidates if each.id not in may]
    return (*fit, *(Chance(each.id, 0, _against(seen, request, each)) for each in others))


def refuse_empty(seen: ServiceStatus) -> None:
    """Refuse a service without instances.

    Raises:
        Conflict: it has none; the name may be mistyped.
    """
    if not seen.candidates:
        raise Conflict(f"{seen.service}: no such service{_blind(seen)}; --service names another")


def refuse_unknown(seen: ServiceStatus) -> None:
    """Refuse a service without instances or keys of an election.

    Raises:
        Conflict: it has neither; the name may be mistyped.
    """
    if not seen.known:
        refuse_empty(seen)


def describe(order: Order) -> str:
    """An order in short, with its time."""
    to = f" to {order.to}" if order.to else ""
    reason = f" ({order.reason})" if order.reason else ""
    return f"{order.kind}{to} by {order.by}, for {timestamp(order.at)}{reason}"


def _order(seen: ServiceStatus, request: OrderRequest, kind: Kind, to: str | None) -> Order:
    at = seen.wall if request.at is None else request.at
    return Order(request.id, kind, at, request.by, to, request.reason, request.force)


def _against(seen: ServiceStatus, request: OrderRequest, candidate: Candidate) -> tuple[str, ...]:
    if candidate.id == seen.primary:
        return ("it is primary already",)
    passed_over = () if request.to in (None, candidate.id) else (f"{request.to} is named",)
    return (*passed_over, *seen.objections(candidate))


def _refuse_second(seen: ServiceStatus) -> None:
    key = orders.order_key(seen.service)
    if key in seen.state.garbage:
        raise Conflict(f"{key} cannot be read; `flush switchover` removes it")
    if seen.pending:
        raise Conflict(
            f"another order is pending: {describe(seen.pending)}; `flush switchover` cancels it"
        )


def _named(seen: ServiceStatus, instance: str) -> Candidate:
    if (found := seen.find(instance)) is None:
        known = ", ".join(each.id for each in seen.candidates) or "none"
        raise Conflict(f"{instance}: no such instance; the instances are: {known}" + _blind(seen))
    if found.id == seen.primary:
        raise Conflict(f"{instance} is primary already")
    return found


def _fit(seen: ServiceStatus, candidate: Candidate) -> None:
    if against := seen.objections(candidate):
        why = ", ".join(against)
        raise Conflict(f"{candidate.id} may not become primary: {why}; `list` shows who may")


def _serving(candidate: Candidate) -> None:
    able = candidate.cold and candidate.state == COLD and not candidate.maintenance
    if not candidate.serving and not able:
        what = "in maintenance" if candidate.maintenance else candidate.state
        detail = f": {candidate.detail}" if candidate.detail else ""
        raise Conflict(
            f"{candidate.id} does not serve, and --force cannot change that: {what}{detail}"
        )


def _best(seen: ServiceStatus) -> Candidate:
    if seen.ranking:
        return seen.ranking[0]
    why = [f"{each.id}: {', '.join(seen.objections(each))}" for each in seen.others]
    reasons = "; ".join(why) or "there is no other instance"
    raise Conflict(f"no other instance may become primary: {reasons}" + _blind(seen))


def _least_bad(seen: ServiceStatus, force: bool) -> Candidate:
    """The best candidate; with force, else the serving one with the fewest objections."""
    if seen.ranking or not force:
        return _best(seen)
    able = [each for each in seen.others if each.serving]
    if not able:
        return _best(seen)

    def faults(each: Candidate) -> tuple[int, bool, int, str]:
        settles = each.settling(seen.wall) > 0
        return len(seen.objections(each)), settles, -each.priority, each.id

    return min(able, key=faults)


def _lost(
    seen: ServiceStatus, holder: Candidate | None, to: Candidate, force: bool
) -> Iterator[str]:
    """What a failover loses, and what it overrides."""
    last = seen.state.lock.last
    old = seen.primary or (last.instance if last else None)
    if old and not (holder and holder.serving):
        yield f"lost if {old} is dead: in-flight requests that cannot be retried, such as streams"
    if holder and holder.serving:
        yield f"{holder.id} serves, and is forced out of the role"
    if force:
        yield f"{to.id} need not prove itself first"
        yield from (f"overridden: {to.id}: {why}" for why in seen.objections(to))
    if seen.state.paused(seen.wall):
        yield f"automation stays paused: no instance takes over if {to.id} fails"
    if seen.pending:
        yield f"the pending order is dropped: {describe(seen.pending)}"


def _blind(seen: ServiceStatus) -> str:
    """A hint if Consul lists no instance at all: a token without read access sees none."""
    if seen.candidates:
        return ""
    return f" (Consul lists no instance of {seen.service}; the ACL token may lack read access)"
