"""This instance's candidacy: what it wants with the role, and why. Pure."""

from dataclasses import dataclass

from sidecar.election import candidates
from sidecar.election.candidates import Candidate
from sidecar.election.decision import Intent
from sidecar.election.keys import lock
from sidecar.election.keys.orders import ElectionState, Kind, Order
from sidecar.registry.registration import COLD, NOFAILOVER
from sidecar.verdict.verdict import Verdict
from sidecar.verdict.verdict_line import State


@dataclass(frozen=True, slots=True)
class Fit:
    """Since when an instance passes, or is cold and ready: monotonic and Unix seconds."""

    since: float
    wall: float

    def settled_at(self, settle: float, now: float) -> float | None:
        """When (Unix seconds) it will have passed for `settle` seconds; None if it has."""
        return self.wall + settle if now < self.since + settle else None


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    """What the sidecar knows about its own instance.

    `published` is the verdict that Consul has confirmed, `fit_since` when (monotonic seconds) it
    became PASSING, or cold and ready. `maintained` is why others want it out of service, and
    `handing_over` whether it looks for a successor first. `failed` is why a recent promotion
    failed, `promoting` whether one is under way.
    """

    published: Verdict | None
    draining: bool = False
    leaving: bool = False
    maintained: str | None = None
    handing_over: bool = False
    fit_since: float | None = None
    cold: bool = False
    promoting: bool = False
    failed: str = ""
    headroom: str = ""
    priority: int = 100
    model_set: str = ""
    tags: tuple[str, ...] = ()


def stand(instance: str, known: InstanceFacts) -> tuple[Intent, Candidate, str]:
    """The instance's intent, the instance as a candidate, and the reason for the intent."""
    published = known.published
    state = published.state if published else State.STARTING
    own = Candidate(
        id=instance,
        state=COLD if state is State.COLD else str(state),
        priority=known.priority,
        cold=known.cold,
        model_set=known.model_set,
        nofailover=NOFAILOVER in known.tags,
        maintenance=known.maintained is not None,
        promoting=known.promoting,
        unfit=known.failed or known.headroom or _ending(known),
        detail=published.summary if published else "",
        starting=state is State.STARTING,
        since=known.fit_since,
    )
    intent, why = _intent(known)
    return intent, own, why


def _ending(known: InstanceFacts) -> str:
    return "it is shutting down" if known.draining or known.leaving else ""


def _intent(known: InstanceFacts) -> tuple[Intent, str]:
    published = known.published
    summary = published.summary if published else "it has not passed yet"
    able = published is not None and (published.serving or published.state is State.COLD)
    maintained = known.maintained is not None
    relieved = maintained and not known.handing_over
    table = (
        (known.leaving, Intent.YIELD, "it is shutting down"),
        (published is None, Intent.YIELD, summary),
        (relieved, Intent.YIELD, f"in maintenance: {known.maintained}"),
        (known.draining, Intent.KEEP, "it is draining"),
        (bool(known.failed), Intent.YIELD, known.failed),
        (
            maintained and able,
            Intent.KEEP,
            f"it is handing over, in maintenance: {known.maintained}",
        ),
        (known.promoting or able, Intent.SEEK, ""),
        (True, Intent.YIELD, summary),
    )
    return next((intent, why) for applies, intent, why in table if applies)


def model_set_difference(
    own: str, declared: str, state: ElectionState | None, instance: str
) -> str:
    """How its own model set differs from the declared one or the primary's; "" if it does not.

    A set that is not known yet does not differ.
    """
    held = state.lock if state else lock.ElectionLock()
    if not own:
        return ""
    if declared:
        return "" if own == declared else f"serves the model set {own}; {declared} is declared"
    primary = held.last if held.instance and held.instance != instance else None
    if primary and primary.model_set and primary.model_set != own:
        return f"serves the model set {own}; {primary.instance} serves {primary.model_set}"
    return ""


def must_refuse(own: str, declared: str, state: ElectionState | None, instance: str) -> bool:
    """Whether an instance with another model set must take no requests.

    Only while a live primary has the right one: a doubtful instance is better than none.
    """
    held = state.lock if state else lock.ElectionLock()
    if not model_set_difference(own, declared, state, instance) or held.instance in (
        None,
        instance,
    ):
        return False
    return bool(held.last and held.last.model_set == (declared or held.last.model_set))


def wants_proof(state: ElectionState | None, instance: str, wall: float) -> bool:
    """Whether a due order waits for this instance's proof."""
    order = state.due(wall) if state else None
    if state is None or order is None or order.to != instance or order.force:
        return False
    return state.proof_of(order) is None


@dataclass(frozen=True, slots=True)
class Settle:
    """The candidate must pass for this many more seconds."""

    seconds: float


def objection(
    own: Candidate,
    declared: str,
    state: ElectionState,
    order: Order,
    now: float,
    wall: float,
    settle: float,
) -> Settle | str:
    """What disqualifies this instance as an order's candidate, before its canaries run.

    "" for nothing, the reason, or `Settle` if it must settle first. A failover does not wait for
    that: no instance serves while it does.
    """
    last = state.lock.last
    reference = declared or (last.model_set if last else "")
    if found := candidates.objections(own, reference):
        return ", ".join(found)
    if order.kind is Kind.FAILOVER or own.since is None or now >= own.since + settle:
        return ""
    left = own.since + settle - now
    if wall + left < order.settled_by:
        return Settle(left)
    return f"it has passed for {now - own.since:.0f} s of the required {settle:g} s"
