"""What `decide` returns in each case."""

from dataclasses import replace
from typing import Any

import pytest

from sidecar.election import decision
from sidecar.election.actions import (
    Acquire,
    Action,
    CancelOrder,
    CloseSession,
    NameCandidate,
    OpenSession,
    OrderFailback,
    ReadCatalog,
    Release,
    RenewSession,
    Wait,
)
from sidecar.election.candidates import Candidate, Field, objections
from sidecar.election.decision import DecisionRules, ElectionView, Failback, Intent, decide
from sidecar.election.keys.lock import Claim, ElectionLock, Ended
from sidecar.election.keys.orders import ElectionState, Kind, Order, Outcome, Pause, Proof
from sidecar.election.lease import Lease

PAUSED = "automation is paused"
ANOTHER_LEADS = "another instance is primary"
TAKES_AGAIN = "it lost its session and takes the role again"
EDITED = "the epoch was edited"
FIRST_PRIMARY = "the first primary"
B_UNPROVEN = "b must prove itself first"
BY_ME = "switchover by me"
UNFIT = "it is not fit"
PLACE = "others come first: it is number {}"

TTL = 15.0
WALL = 1_700_000_000.0
NOW = 1000.0
A = Candidate("a", since=NOW - 100)
B = Candidate("b")
C = Candidate("c", priority=200)
LEASE = Lease(TTL, "s", confirmed=NOW)
HELD = replace(LEASE, epoch=9)
CLAIM_A, CLAIM_B = Claim("a", "s", "then"), Claim("b", "other", "then")
FREE = ElectionState(ElectionLock(index=9, epoch=5))
MINE = ElectionState(ElectionLock("s", "a", 9, 9, CLAIM_A))
THEIRS = ElectionState(ElectionLock("other", "b", 9, 9, CLAIM_B))
LOST_BY_B = ElectionState(ElectionLock(None, None, 9, 10, CLAIM_B))
GIVEN_UP_BY_B = ElectionState(
    ElectionLock(None, None, 9, 10, replace(CLAIM_B, ended=Ended("done", WALL)))
)
LOST_BY_A = ElectionState(ElectionLock(None, None, 9, 10, CLAIM_A))
GIVEN_UP_BY_A = ElectionState(
    ElectionLock(None, None, 9, 10, replace(CLAIM_A, ended=Ended("done", WALL)))
)
PAUSE = Pause(WALL - 10, "me")
RULES = DecisionRules()


def field(*others: Candidate, age: float = 0.0) -> Field:
    return Field(others, NOW - age)


def view(state: ElectionState | None = FREE, **changes: object) -> ElectionView:
    known = ElectionView(state, A, Intent.SEEK, field(A, B), free_since=NOW - 60, wall=WALL)
    return replace(known, **changes)  # type: ignore[arg-type]  # a test's shorthand


def against(**of: Any) -> str:
    """The objection to such a candidate."""
    [why] = objections(Candidate("any", **of), "")
    return why


def order(to: str | None = None, kind: Kind = Kind.SWITCHOVER, **changes: object) -> Order:
    placed = Order("o1", kind, WALL, "me", to)
    return replace(placed, **changes)  # type: ignore[arg-type]  # a test's shorthand


def proof(to: str, why: str = "") -> Proof:
    return Proof("o1", to, not why, why, WALL)


def decision_of(
    view: ElectionView, held: Lease = LEASE, rules: DecisionRules = RULES, now: float = NOW
) -> Action | str:
    decided = decide(view, held, now, rules)
    return decided.why if isinstance(decided, Wait) else decided


@pytest.mark.parametrize(
    ("intent", "held", "expected"),
    [
        (Intent.SEEK, Lease(TTL), OpenSession()),
        (Intent.SEEK, replace(LEASE, spent=True), CloseSession()),
        (Intent.SEEK, replace(LEASE, confirmed=NOW - 5), RenewSession()),
        (Intent.SEEK, replace(HELD, confirmed=NOW - 100), RenewSession()),
        (Intent.KEEP, replace(HELD, confirmed=NOW - 5), RenewSession()),
        (Intent.KEEP, HELD, "it is primary"),
        (Intent.KEEP, LEASE, CloseSession()),
        (Intent.KEEP, Lease(TTL), "it does not stand for election: it drains"),
        (Intent.YIELD, HELD, Release("it drains")),
        (Intent.YIELD, LEASE, CloseSession()),
        (Intent.YIELD, Lease(TTL), "it does not stand for election: it drains"),
    ],
)
def test_the_session_follows_the_intent_of_the_instance(
    intent: Intent, held: Lease, expected: Action | str
) -> None:
    assert decision_of(view(MINE, intent=intent, why="it drains"), held) == expected


def test_before_the_first_read_it_waits_and_renews() -> None:
    assert decide(view(None), LEASE, NOW, RULES) == Wait(
        "the lock has not been read yet", NOW + TTL / 3
    )


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (ElectionState(ElectionLock(index=8)), "its own acquisition is not visible yet"),
        (ElectionState(ElectionLock("s", None, 9, 9)), Acquire(EDITED)),
        (MINE, "it is primary"),
    ],
)
def test_the_holder_repairs_edited_keys(state: ElectionState, expected: Action | str) -> None:
    assert decision_of(view(state), HELD) == expected


LATER = order("b", at=WALL + 2)
LATE = order("b", at=WALL - 60)
TO_B = order("b")
FORCED = order("b", force=True)
BACK = order("b", Kind.FAILBACK)


@pytest.mark.parametrize(
    ("placed", "proven", "paused", "expected"),
    [
        (LATER, None, False, "it is primary"),
        (LATE, None, False, CancelOrder(LATE, "it was not carried out within 60 s")),
        (BACK, proof("b"), True, CancelOrder(BACK, PAUSED)),
        (order("a"), None, False, CancelOrder(order("a"), "a is primary already")),
        (FORCED, None, True, Release(BY_ME, "b", "o1")),
        (TO_B, None, False, B_UNPROVEN),
        (TO_B, proof("c"), False, B_UNPROVEN),
        (TO_B, replace(proof("b"), order="o0"), False, B_UNPROVEN),
        (TO_B, proof("b"), True, Release(BY_ME, "b", "o1")),
        (TO_B, proof("b", "it is ill"), False, CancelOrder(TO_B, "b is not fit: it is ill")),
        (order(), None, False, NameCandidate(order(), "b")),
    ],
)
def test_the_holder_follows_orders(
    placed: Order, proven: Proof | None, paused: bool, expected: Action | str
) -> None:
    state = replace(MINE, order=placed, proof=proven, pause=PAUSE if paused else None)
    assert decision_of(view(state), HELD) == expected


def test_the_holder_wakes_up_when_an_order_is_due_and_when_it_expires() -> None:
    scheduled = replace(MINE, order=LATER)
    assert decide(view(scheduled), HELD, NOW, RULES) == Wait("it is primary", NOW + 2)
    waiting = replace(MINE, order=replace(TO_B, at=WALL - 58))
    assert decide(view(waiting), HELD, NOW, RULES) == Wait(B_UNPROVEN, NOW + 2)


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (None, ReadCatalog()),
        (field(A, B, age=5.0), ReadCatalog()),
        (field(A, B, C), NameCandidate(order(), "c")),
        (field(A, B, replace(C, settled_at=WALL + 1)), NameCandidate(order(), "b")),
        (field(A, B, replace(C, settled_at=WALL)), NameCandidate(order(), "c")),
        (field(A, replace(C, settled_at=WALL + 1)), NameCandidate(order(), "c")),
        (field(A), CancelOrder(order(), "no other instance is fit: there is no other instance")),
        (
            field(A, replace(B, maintenance=True), replace(C, state="critical", detail="ill")),
            CancelOrder(
                order(),
                f"no other instance is fit: b: {against(maintenance=True)};"
                f" c: {against(state='critical', detail='ill')}",
            ),
        ),
    ],
)
def test_the_holder_names_the_best_other_instance(known: Field | None, expected: Action) -> None:
    assert decision_of(view(replace(MINE, order=order()), field=known), HELD) == expected


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (view(ElectionState(ElectionLock("s", None, 9, 9))), Acquire(EDITED)),
        (view(THEIRS), ANOTHER_LEADS),
        (view(), Acquire(FIRST_PRIMARY)),
        (view(LOST_BY_A), Acquire(TAKES_AGAIN)),
        (
            view(LOST_BY_A, own=replace(A, state="warning")),
            Acquire(TAKES_AGAIN),
        ),
        (view(GIVEN_UP_BY_A), Acquire("a released the role: done")),
        (
            view(GIVEN_UP_BY_A, own=replace(A, state="warning")),
            f"{UNFIT}: {against(state='warning')}",
        ),
        (
            view(replace(GIVEN_UP_BY_A, pause=PAUSE)),
            Acquire(TAKES_AGAIN),
        ),
        (view(replace(GIVEN_UP_BY_B, pause=PAUSE)), PAUSED),
        (
            view(replace(GIVEN_UP_BY_B, pause=replace(PAUSE, until=WALL))),
            Acquire("b released the role: done"),
        ),
    ],
)
def test_an_instance_that_wants_a_free_lock(known: ElectionView, expected: Action | str) -> None:
    assert decision_of(known) == expected


@pytest.mark.parametrize(
    "own",
    [
        replace(A, nofailover=True, model_set="one"),
        replace(A, model_set="other"),
        replace(A, model_set=""),
        replace(A, unfit="no room", model_set="one"),
    ],
)
def test_the_last_holder_takes_it_again_only_with_the_same_model_set_and_health(
    own: Candidate,
) -> None:
    lost = ElectionState(replace(LOST_BY_A.lock, last=replace(CLAIM_A, model_set="one")))
    known = view(lost, own=own, field=field(own, replace(B, model_set="one")))
    assert str(decision_of(known)).startswith(UNFIT)


PROVEN = replace(GIVEN_UP_BY_B, order=order("a"), proof=proof("a"))
DONE = "b released the role: done"


@pytest.mark.parametrize(
    ("state", "free_for", "expected"),
    [
        (PROVEN, 0, Acquire(BY_ME, order("a"))),
        (replace(PROVEN, pause=PAUSE), 0, Acquire(BY_ME, order("a"))),
        (
            replace(PROVEN, order=order("a", Kind.FAILBACK), pause=PAUSE),
            0,
            PAUSED,
        ),
        (
            replace(GIVEN_UP_BY_A, order=order("c", Kind.FAILBACK), pause=PAUSE),
            0,
            Acquire(TAKES_AGAIN, order("c", Kind.FAILBACK)),
        ),
        (replace(PROVEN, proof=None), 60, "it must prove itself first"),
        (
            replace(PROVEN, order=order("a", force=True), proof=None),
            0,
            Acquire(BY_ME, order("a", force=True)),
        ),
        (
            replace(PROVEN, proof=proof("a", "ill")),
            60,
            Acquire(f"switchover by me; {DONE}", order("a")),
        ),
        (replace(PROVEN, order=order("c")), 4.9, "the role is meant for c"),
        (
            replace(PROVEN, order=order("c")),
            5.1,
            Acquire(f"switchover by me; {DONE}", order("c")),
        ),
        (replace(PROVEN, order=order("c", at=WALL - 60)), 4.9, Acquire(DONE)),
        (replace(PROVEN, order=order("c", at=WALL + 60)), 4.9, Acquire(DONE)),
        # An order that names no candidate ends with whichever takes the role, paused or not ...
        (replace(PROVEN, order=order()), 1, Acquire(f"switchover by me; {DONE}", order())),
        (
            replace(PROVEN, order=order(), pause=PAUSE),
            1,
            Acquire(f"switchover by me; {DONE}", order()),
        ),
        # ... but not with the one that the role is to move away from.
        (
            replace(LOST_BY_A, order=order()),
            1,
            Acquire(TAKES_AGAIN),
        ),
        (
            replace(LOST_BY_A, order=order("c")),
            6,
            Acquire(TAKES_AGAIN, order("c")),
        ),
    ],
)
def test_a_free_lock_and_an_order(
    state: ElectionState, free_for: float, expected: Action | str
) -> None:
    assert decision_of(view(state, free_since=NOW - free_for)) == expected


@pytest.mark.parametrize(
    ("known", "now", "expected"),
    [
        (view(field=None), NOW, ReadCatalog()),
        (view(field=field(A, age=5.0)), NOW, ReadCatalog()),
        (view(field=field(A, age=1.0), free_since=NOW), NOW, ReadCatalog()),
        (
            view(own=replace(A, maintenance=True)),
            NOW,
            Wait(f"{UNFIT}: {against(maintenance=True)}", NOW + 5),
        ),
        (
            view(own=replace(A, since=NOW - 4)),
            NOW,
            Wait("it has passed for less than 5 s", NOW + 1),
        ),
        (
            view(own=replace(A, since=None)),
            NOW,
            Wait("it has passed for less than 5 s", NOW + 5),
        ),
        (
            view(field=field(A, C), free_since=NOW),
            NOW,
            Wait(PLACE.format(2), NOW + 0.2),
        ),
        (view(field=field(A, C), free_since=NOW), NOW + 0.2, Acquire(FIRST_PRIMARY)),
        # A candidate that may not take the lock yet is not waited for.
        (
            view(field=field(A, replace(C, settled_at=WALL + 1)), free_since=NOW),
            NOW,
            Acquire(FIRST_PRIMARY),
        ),
    ],
)
def test_a_candidate_waits_for_its_turn(
    known: ElectionView, now: float, expected: Action | Wait
) -> None:
    assert decide(known, LEASE, now, RULES) == expected


def test_the_wait_is_bounded_with_many_candidates() -> None:
    many = [Candidate(f"A{number}") for number in range(50)]
    waiting = decide(view(field=field(*many, A), free_since=NOW), LEASE, NOW, RULES)
    assert waiting == Wait(PLACE.format(51), NOW + 2.0)


def test_in_a_catalog_read_before_the_release_the_last_holder_is_ignored() -> None:
    """The lock is free because of it: no candidate waits for its turn."""
    better = replace(B, priority=A.priority + 1)
    old = replace(field(A, better), at=NOW - 60)
    known = view(LOST_BY_B, field=old, free_since=NOW)
    assert decide(known, LEASE, NOW, RULES) == ReadCatalog()


@pytest.mark.parametrize(
    ("last", "waits", "cause"),
    [
        (
            replace(B, silent=True, state="critical", detail="TTL expired"),
            True,
            "nothing is known against it",
        ),
        (replace(B, state="critical", detail="it is ill"), False, "it is ill"),
        (None, True, "b is not in the catalog"),
    ],
)
def test_the_last_holder_has_a_head_start_unless_it_is_known_to_be_unhealthy(
    last: Candidate | None, waits: bool, cause: str
) -> None:
    known = view(LOST_BY_B, field=field(A, *([last] if last else [])), free_since=NOW)
    decided = decide(known, LEASE, NOW, RULES)
    if waits:
        assert isinstance(decided, Wait)
        assert decided.why == PLACE.format(1)
        freed = NOW - RULES.head_start
        decided = decide(replace(known, free_since=freed), LEASE, NOW, RULES)
    assert isinstance(decided, Acquire)
    assert decided.cause.endswith(cause)


AUTO = DecisionRules(failback=Failback.AUTO)
PREFERRED = replace(A, priority=200)
FAILED = Outcome("o0", done=False, why="no", at=WALL - 59)


@pytest.mark.parametrize(
    ("known", "rules", "expected"),
    [
        (view(THEIRS, own=PREFERRED), AUTO, OrderFailback("it has priority 200 and passes")),
        (view(THEIRS, own=A), AUTO, ANOTHER_LEADS),
        (view(THEIRS, own=PREFERRED), RULES, ANOTHER_LEADS),
        (
            view(THEIRS, own=PREFERRED),
            DecisionRules(failback=Failback.MANUAL),
            ANOTHER_LEADS,
        ),
        (view(THEIRS, own=replace(PREFERRED, since=None)), AUTO, ANOTHER_LEADS),
        (
            view(THEIRS, own=replace(PREFERRED, state="warning")),
            AUTO,
            ANOTHER_LEADS,
        ),
        (
            view(THEIRS, own=replace(PREFERRED, nofailover=True)),
            AUTO,
            ANOTHER_LEADS,
        ),
        (view(replace(THEIRS, pause=PAUSE), own=PREFERRED), AUTO, ANOTHER_LEADS),
        (view(replace(THEIRS, order=order()), own=PREFERRED), AUTO, ANOTHER_LEADS),
        (
            view(THEIRS, own=replace(PREFERRED, since=NOW - 59)),
            AUTO,
            "it is preferred but has not settled",
        ),
        (
            view(replace(THEIRS, outcome=FAILED), own=PREFERRED),
            AUTO,
            "an order has just failed",
        ),
        (
            view(replace(THEIRS, outcome=replace(FAILED, at=WALL - 60)), own=PREFERRED),
            AUTO,
            OrderFailback("it has priority 200 and passes"),
        ),
        (
            view(replace(THEIRS, outcome=replace(FAILED, done=True)), own=PREFERRED),
            AUTO,
            OrderFailback("it has priority 200 and passes"),
        ),
        (view(THEIRS, own=PREFERRED, field=None), AUTO, ReadCatalog()),
        (
            view(THEIRS, own=PREFERRED, field=field(B, replace(C, priority=300))),
            AUTO,
            "it is preferred but not fit, or not the best candidate",
        ),
    ],
)
def test_the_preferred_instance_requests_the_role(
    known: ElectionView, rules: DecisionRules, expected: Action | str
) -> None:
    assert decision_of(known, rules=rules) == expected


def test_failback_is_due_only_against_another_holder() -> None:
    assert decision.failback_due(PREFERRED, THEIRS.lock)
    assert not decision.failback_due(PREFERRED, MINE.lock)
    assert not decision.failback_due(PREFERRED, LOST_BY_B.lock)
    assert not decision.failback_due(A, THEIRS.lock)
