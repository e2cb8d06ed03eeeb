"""How far an order has progressed."""

from dataclasses import replace
from datetime import datetime

import pytest

from sidecar.control_planes import rpc
from sidecar.control_planes.rpc import Failures
from sidecar.election.keys.lock import Claim, ElectionLock
from sidecar.election.keys.orders import ElectionState, Kind, Order, Outcome, Proof
from sidecar.operator import follow_order, order_progress
from sidecar.operator.operator_client import OperatorClient
from sidecar.operator.order_progress import OrderProgress
from sidecar.operator.times import parse_time
from tests.support.consul_model import FakeConsul
from tests.support.virtual_clock import VirtualClock

CHOSEN = "b is the candidate"
PROVED = "b has proved itself"
RELEASED = "a has released the role"
LEADS = "b is primary, epoch 53"

ORDER = Order("o", Kind.SWITCHOVER, 100.0, "jane@desk", "b", index=50)
BEFORE = ElectionState(ElectionLock("s", "a", 40, 49, Claim("a", "s", "x")))
GIVEN = ElectionState(ElectionLock("s", "a", 40, 50, Claim("a", "s", "x")), ORDER)
PROVEN = replace(GIVEN, proof=Proof("o", "b", True, "", 101))
UNFIT = replace(GIVEN, proof=Proof("o", "b", False, "its canary fails", 101))
FREED = replace(PROVEN, lock=ElectionLock(None, None, 40, 52, Claim("a", "s", "x")))
TAKEN = ElectionState(
    ElectionLock("t", "b", 53, 53, Claim("b", "t", "y")),
    proof=PROVEN.proof,
    outcome=Outcome("o", True, "", 102),
)
CANCELLED = replace(UNFIT, order=None, outcome=Outcome("o", False, "b is not fit", 102))
REMOVED = replace(GIVEN, order=None)


def seen(
    *states: ElectionState, order: Order = ORDER, before: ElectionState = BEFORE
) -> tuple[OrderProgress, list[str]]:
    known = order_progress.begun(order, before)
    steps: list[str] = []
    for state in states:
        after = order_progress.advance(known, order, state)
        steps += order_progress.steps(known, after, order, before.lock.instance)
        known = after
    return known, steps


def test_each_step_is_reported_once() -> None:
    known, steps = seen(BEFORE, GIVEN, PROVEN, PROVEN, FREED, TAKEN, TAKEN)
    assert steps == [PROVED, RELEASED, LEADS]
    assert (known.primary, known.epoch, known.over, known.failed) == ("b", 53, True, "")


def test_steps_that_were_missed_in_between_are_still_reported() -> None:
    _, steps = seen(TAKEN)
    assert steps == [PROVED, RELEASED, LEADS]


def test_the_choice_of_a_candidate_is_reported() -> None:
    open_ = replace(ORDER, to=None)
    waiting = replace(GIVEN, order=open_)
    known, steps = seen(waiting, replace(GIVEN, order=replace(ORDER, index=51)), order=open_)
    assert steps == [CHOSEN]
    assert (known.to, known.index) == ("b", 51)


@pytest.mark.parametrize("states", [[TAKEN], [replace(FREED, order=None), TAKEN]])
def test_a_choice_that_was_missed_is_read_from_its_proof(
    states: list[ElectionState],
) -> None:
    _, steps = seen(*states, order=replace(ORDER, to=None))
    assert steps[:2] == [CHOSEN, PROVED]


@pytest.mark.parametrize(
    ("states", "failed", "over", "revocable"),
    [
        ([BEFORE], "", False, True),
        ([GIVEN], "", False, True),
        ([PROVEN], "", False, True),
        ([UNFIT], "", False, True),  # the holder drops the order
        ([FREED], "", False, False),
        ([CANCELLED], "b is not fit", True, False),
        ([REMOVED], "the order was removed", True, False),
        ([TAKEN], "", True, False),
        ([CANCELLED, TAKEN], "b is not fit", True, False),
    ],
)
def test_how_an_order_ends(
    states: list[ElectionState], failed: str, over: bool, revocable: bool
) -> None:
    known, _ = seen(*states)
    assert (known.failed, known.over, known.revocable) == (failed, over, revocable)


def test_without_a_holder_the_order_of_an_unfit_candidate_stays() -> None:
    free = replace(BEFORE, lock=ElectionLock(None, None, 40, 49, Claim("a", "s", "x")))
    unfit = replace(UNFIT, lock=ElectionLock(None, None, 40, 51, Claim("a", "s", "x")))
    known, steps = seen(unfit, before=free)
    assert (known.over, known.unfit, known.revocable) == (True, "its canary fails", True)
    assert steps == []


def test_the_proof_of_another_order_does_not_count() -> None:
    stale = replace(GIVEN, proof=Proof("other", "b", True, "", 90))
    assert not seen(stale)[0].proven


@pytest.mark.parametrize(
    ("states", "text"),
    [
        ([GIVEN], "b has not proved itself"),
        ([PROVEN], "b has proved itself, a has not released the role"),
        ([FREED], "a has released the role, b has not taken it yet"),
    ],
)
def test_how_progress_is_described(states: list[ElectionState], text: str) -> None:
    assert order_progress.describe(seen(*states)[0], "a") == text


def test_a_candidate_that_settles_is_described_as_such() -> None:
    known, _ = seen(GIVEN)
    assert order_progress.describe(known, "a", 1.2) == "b is settling, 2 s to go"


@pytest.mark.parametrize(
    ("counted", "cost"),
    [
        (Failures(9, 1, counted=1, unknown=1), Failures(9, 1, counted=1, unknown=1)),
        (Failures(0, 0, counted=0, unknown=1), None),  # it is not known that none failed
        (None, None),
    ],
)
async def test_a_cost_that_was_not_counted_is_unknown(
    monkeypatch: pytest.MonkeyPatch, counted: Failures | None, cost: Failures | None
) -> None:
    async def failures(*_: object) -> Failures | None:
        return counted

    monkeypatch.setattr(rpc, "failures", failures)
    clock = VirtualClock()
    client = OperatorClient(
        FakeConsul(clock=clock), "t", "planes", "", "jane@desk", clock, lambda: "o"
    )
    assert await follow_order._cost(client, 3.0) == cost


# --- times ------------------------------------------------------------------------------------

NOW = datetime(2026, 1, 31, 14, 30, 5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("15:00", datetime(2026, 1, 31, 15)),
        ("14:30", datetime(2026, 2, 1, 14, 30)),
        ("3:00", datetime(2026, 2, 1, 3)),
        ("2026-02-03T04:05", datetime(2026, 2, 3, 4, 5)),
        ("2026-02-03 04:05:06", datetime(2026, 2, 3, 4, 5, 6)),
        ("2036-02-03T04:05Z", datetime.fromisoformat("2036-02-03T04:05+00:00")),
        ("2036-02-03T04:05+01:00", datetime.fromisoformat("2036-02-03T03:05+00:00")),
    ],
)
def test_valid_times(text: str, expected: datetime) -> None:
    assert parse_time(text, NOW) == expected.timestamp()


@pytest.mark.parametrize("text", ["", "soon", "24:00", "12:60", "2026-13-01", "15"])
def test_invalid_times(text: str) -> None:
    with pytest.raises(ValueError, match="expected a time such as 03:00"):
        parse_time(text, NOW)


def test_a_time_in_the_past() -> None:
    with pytest.raises(ValueError, match="expected a time to come"):
        parse_time("2026-01-31T14:30:05", NOW)
