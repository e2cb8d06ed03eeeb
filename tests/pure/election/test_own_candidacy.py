"""How an instance rates itself as a candidate, and which model set it has to match."""

import pytest

from sidecar.election import own_candidacy
from sidecar.election.candidates import Candidate
from sidecar.election.decision import Intent
from sidecar.election.keys.lock import Claim, ElectionLock
from sidecar.election.keys.orders import ElectionState, Kind, Order, Proof
from sidecar.election.own_candidacy import Fit, InstanceFacts, Settle, stand
from sidecar.verdict.evidence import Reason
from sidecar.verdict.verdict import UNPROVEN, Verdict
from sidecar.verdict.verdict_line import State

PASSING = Verdict(State.PASSING, Reason.OK)
CRITICAL = Verdict(State.CRITICAL, Reason.GPU_LOST, "GPU 0 is lost")
COLD = Verdict(State.COLD, Reason.COLD_STANDBY)
OURS, THEIRS = "triton-00000000000000aa", "triton-00000000000000bb"


@pytest.mark.parametrize(
    ("known", "intent"),
    [
        (InstanceFacts(None), Intent.YIELD),
        (InstanceFacts(UNPROVEN), Intent.YIELD),
        (InstanceFacts(PASSING), Intent.SEEK),
        (InstanceFacts(CRITICAL), Intent.YIELD),
        (InstanceFacts(PASSING, maintained="new disk"), Intent.YIELD),
        (InstanceFacts(PASSING, maintained="new disk", handing_over=True), Intent.KEEP),
        (InstanceFacts(CRITICAL, maintained="new disk", handing_over=True), Intent.YIELD),
        (InstanceFacts(PASSING, draining=True), Intent.KEEP),
        (InstanceFacts(PASSING, draining=True, leaving=True), Intent.YIELD),
        (InstanceFacts(PASSING, draining=True, maintained="new disk"), Intent.YIELD),
        (InstanceFacts(COLD, cold=True), Intent.SEEK),
        (InstanceFacts(CRITICAL, cold=True), Intent.YIELD),
        (InstanceFacts(UNPROVEN, promoting=True), Intent.SEEK),
        (InstanceFacts(COLD, cold=True, failed="no such file"), Intent.YIELD),
    ],
)
def test_the_intent_of_an_instance(known: InstanceFacts, intent: Intent) -> None:
    wants, own, why = stand("a", known)
    assert wants is intent
    assert own.id == "a"
    assert bool(why) == (intent is not Intent.SEEK)


def test_the_candidate_describes_the_instance() -> None:
    known = InstanceFacts(
        PASSING,
        fit_since=7.0,
        headroom="GPU 0: 1 MiB of memory are free",
        priority=200,
        model_set=OURS,
        tags=("blue", "nofailover"),
    )
    _, own, _ = stand("a", known)
    assert own == Candidate(
        id="a",
        state="passing",
        priority=200,
        model_set=OURS,
        nofailover=True,
        unfit="GPU 0: 1 MiB of memory are free",
        detail="PASSING OK",
        since=7.0,
    )


def state(instance: str | None, model_set: str, **more: object) -> ElectionState:
    claim = Claim("b", "s", "then", 100, model_set)
    return ElectionState(ElectionLock("s" if instance else None, instance, 5, 5, claim), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("own", "declared", "seen", "differs", "refused"),
    [
        ("", "", state("b", THEIRS), False, False),
        (OURS, "", None, False, False),
        (OURS, "", state("b", OURS), False, False),
        (OURS, "", state("b", THEIRS), True, True),
        (OURS, "", state(None, THEIRS), False, False),  # no instance could do better
        (OURS, "", state("a", THEIRS), False, False),  # it is the primary itself
        (OURS, THEIRS, state("b", THEIRS), True, True),
        (OURS, THEIRS, state("b", OURS), True, False),  # the primary is no better
        (OURS, THEIRS, state(None, OURS), True, False),
        (OURS, OURS, state("b", THEIRS), False, False),  # the primary is the one that differs
    ],
)
def test_which_instance_serves_another_model_set(
    own: str, declared: str, seen: ElectionState | None, differs: bool, refused: bool
) -> None:
    compared = own, declared, seen, "a"
    assert bool(own_candidacy.model_set_difference(*compared)) == differs
    assert own_candidacy.must_refuse(*compared) == refused


ORDER = Order("1", Kind.SWITCHOVER, 100.0, "anna", to="a")


@pytest.mark.parametrize(
    ("seen", "wall", "wants"),
    [
        (None, 100.0, False),
        (state("b", ""), 100.0, False),
        (state("b", "", order=ORDER), 99.0, False),
        (state("b", "", order=ORDER), 100.0, True),
        (state("b", "", order=ORDER), 160.0, False),
        (state("b", "", order=ORDER, proof=Proof("1", "a", True, "", 1.0)), 100.0, False),
        (state("b", "", order=ORDER, proof=Proof("0", "a", True, "", 1.0)), 100.0, True),
        (state("b", "", order=Order("1", Kind.FAILOVER, 100.0, "anna", "a", "", True)), 100, False),
        (state("b", "", order=Order("1", Kind.SWITCHOVER, 100.0, "anna", "c")), 100.0, False),
    ],
)
def test_when_an_order_waits_for_its_own_proof(
    seen: ElectionState | None, wall: float, wants: bool
) -> None:
    assert own_candidacy.wants_proof(seen, "a", wall) == wants


def against(own: Candidate, declared: str, wall: float, kind: Kind = Kind.SWITCHOVER) -> object:
    """For an order of the wall clock's 100, at 12 of the monotonic one."""
    order = Order("1", kind, 100.0, "anna", "a")
    return own_candidacy.objection(own, declared, state("b", THEIRS), order, 12.0, wall, 5.0)


def test_the_objections_to_the_candidate_of_an_order() -> None:
    own = Candidate("a", model_set=OURS, since=1.0)
    assert OURS in str(against(own, "", 100.0))
    assert against(own, OURS, 100.0) == ""


@pytest.mark.parametrize(
    ("kind", "since", "wall", "found"),
    [
        (Kind.SWITCHOVER, 10.0, 100.0, Settle(3.0)),
        (Kind.SWITCHOVER, 10.0, 106.9, Settle(3.0)),
        # If it takes longer than that, the operator needs the reason.
        (Kind.SWITCHOVER, 10.0, 107.1, "it has passed for 2 s of the required 5 s"),
        (Kind.SWITCHOVER, 7.0, 100.0, ""),
        (Kind.SWITCHOVER, None, 100.0, ""),  # its verdict says what is missing
        (Kind.STOP, 10.0, 100.0, Settle(3.0)),
        (Kind.STOP, 10.0, 103.0, "it has passed for 2 s of the required 5 s"),
        (Kind.FAILOVER, 10.0, 100.0, ""),
    ],
)
def test_how_long_the_candidate_of_an_order_has_to_settle(
    kind: Kind, since: float | None, wall: float, found: object
) -> None:
    own = Candidate("a", model_set=OURS, since=since)
    assert against(own, OURS, wall, kind) == found


@pytest.mark.parametrize(
    ("now", "settled_at"), [(10.0, 105.0), (14.9, 105.0), (15.0, None), (900.0, None)]
)
def test_the_time_it_settles_at_is_published_until_then(
    now: float, settled_at: float | None
) -> None:
    assert Fit(since=10.0, wall=100.0).settled_at(5.0, now) == settled_at


def test_an_instance_that_is_unfit_does_not_settle_first() -> None:
    own = Candidate("a", model_set=OURS, since=10.0, unfit="its GPU is full")
    assert against(own, OURS, 100.0) == "its GPU is full"
