import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.health.canary import Budgets, Canary
from sidecar.health.evidence import Finding, Layer, Level, Reason
from sidecar.health.progress import (
    Counted,
    Pace,
    Progress,
    Traffic,
    answered,
    look,
    traffic_finding,
    unanswered,
)
from sidecar.triton_api import Answer, Statistics

STILL = Progress(Counted(movements=7), known=True, moved=100.0, still=5)


def late(progress: Progress, now: float, since: float = 100.0) -> Reason:
    return unanswered("chat", since, 2.0, 10.0, progress, now).reason


@pytest.mark.parametrize(
    ("progress", "now", "reason"),
    [
        (STILL, 103.0, Reason.CANARY_LATE),
        (STILL, 109.9, Reason.CANARY_LATE),
        (STILL, 110.0, Reason.MODEL_HUNG),
        (Progress(STILL.counted, True, 105.0, 2, 105.0), 109.0, Reason.MODEL_BUSY),
        (Progress(STILL.counted, True, 105.0, 2, 105.0), 115.0, Reason.MODEL_HUNG),
        (Progress(STILL.counted, True, 160.0, 0, 160.0), 161.0, Reason.MODEL_BUSY),
        (Progress(STILL.counted, True, 50.0, 30), 105.0, Reason.CANARY_LATE),
        (Progress(STILL.counted, True, 100.0, 1), 130.0, Reason.CANARY_LATE),
        (Progress(known=False), 105.0, Reason.CANARY_LATE),
        (Progress(known=False), 110.0, Reason.CANARY_UNANSWERED),
    ],
    ids=[
        "late",
        "still within the stall window",
        "nothing moved for the stall window",
        "others finish",
        "others have finished, but nothing has for the stall window",
        "a queue of a minute that moves",
        "idle before the canary is no stall",
        "one look after a pause of the sidecar proves nothing",
        "unknown progress",
        "unknown progress for the stall window",
    ],
)
def test_late_busy_and_hung_are_told_apart(progress: Progress, now: float, reason: Reason) -> None:
    assert late(progress, now) is reason


@given(st.floats(0, 200), st.integers(0, 5), st.booleans(), st.floats(0, 200), st.floats(0, 200))
def test_a_model_that_moved_within_the_stall_window_is_never_ejected(
    moved: float, still: int, known: bool, since: float, age: float
) -> None:
    now = since + age
    found = unanswered("chat", since, 2.0, 10.0, Progress(None, known, moved, still), now)
    if found.level is Level.CRITICAL:
        assert now - since >= 10.0
        assert not known or now - moved >= 10.0
    assert found.strain >= 1


def counters(successes: int = 0, failures: int = 0, responses: int = 0) -> Counted:
    of = Statistics("chat", "1", successes, failures, 0, successes, responses, successes * 0.1)
    found = Counted.of("chat", [of, Statistics("other", "1", 99)])
    assert found is not None
    return found


def test_each_kind_of_progress_is_a_movement() -> None:
    progress = look(Progress(), counters(), Traffic(), 1.0)
    for number, each in enumerate([counters(1), counters(1, 1), counters(1, 1, 1)], 2):
        progress = look(progress, each, Traffic(), float(number))
        assert (progress.moved, progress.still) == (number, 0)
    progress = look(look(progress, counters(1, 1, 1), Traffic(), 9.0), None, Traffic(), 10.0)
    assert (progress.moved, progress.still, progress.known) == (4.0, 1, False)


def test_counters_that_go_back_are_those_of_a_model_loaded_anew() -> None:
    before = look(Progress(), counters(50), Traffic(), 1.0)
    after = look(before, counters(2), Traffic(), 2.0)
    assert (after.moved, after.traffic) == (2.0, Traffic())


def test_versions_of_a_model_are_counted_together() -> None:
    two = Counted.of("chat", [Statistics("chat", "1", 3), Statistics("chat", "2", 4)])
    assert two is not None
    assert two.successes == 7
    assert Counted.of("chat", [Statistics("other", "1", 3)]) is None


def test_canaries_do_not_count_as_traffic() -> None:
    before = look(Progress(), counters(10), Traffic(), 1.0)
    own = Traffic(successes=3, failures=1, seconds=0.3)
    alone = look(before, counters(13, 1), own, 2.0)
    assert (alone.traffic.successes, alone.traffic.failures) == (0, 0)
    assert (alone.moved, alone.others) == (2.0, 0.0)
    assert look(before, counters(14, 1), own, 2.0).others == 2.0
    assert look(before, counters(20, 1), own, 2.0).traffic.successes == 7


@pytest.mark.parametrize(
    ("traffic", "expected"),
    [
        (Traffic(), None),
        (Traffic(10, 0, 1.0), Reason.OK),
        (Traffic(10, 0, 6.0), Reason.TRAFFIC_SLOW),
        (Traffic(0, 4), Reason.OK),
        (Traffic(4, 5), Reason.TRAFFIC_FAILING),
        (Traffic(100, 20, 1.0), Reason.OK),
    ],
)
def test_traffic(traffic: Traffic, expected: Reason | None) -> None:
    found = traffic_finding("chat", traffic, 0.5, 0.5)
    assert (found.reason if found else None) is expected


def test_without_a_budget_no_traffic_is_slow() -> None:
    found = traffic_finding("chat", Traffic(1, 0, 1e6), None, 0.5)
    assert found
    assert found.ok


def timed(seconds: float, first: float = 0.0, moved: float = 0.0, **budgets: float) -> Finding:
    canary = Canary("chat", ({},), (), timeout=2.0, budgets=Budgets(**budgets))
    return answered(canary, Answer({}, 1, first, seconds), 100.0, Progress(others=moved))


def test_budgets() -> None:
    assert timed(0.1).ok
    assert timed(0.3, warn=0.2, fail=1.0).reason is Reason.CANARY_SLOW
    assert timed(0.3, warn=0.2, fail=1.0).strain == pytest.approx(1.5)
    assert timed(1.1, warn=0.2, fail=1.0).reason is Reason.CANARY_TOO_SLOW
    assert timed(0.1, first=0.1, first_warn=0.05).reason is Reason.CANARY_SLOW
    assert timed(0.3, first=0.3, first_fail=0.2).reason is Reason.CANARY_TOO_SLOW


def test_whoever_stood_in_a_queue_that_moved_is_slow_but_no_failure() -> None:
    assert timed(1.1, moved=100.5, warn=0.2, fail=1.0).reason is Reason.CANARY_SLOW


def test_an_answer_after_the_timeout_is_slow_without_any_budget() -> None:
    assert timed(2.5).reason is Reason.CANARY_SLOW
    assert timed(2.5).layer is Layer.CANARY


def test_real_traffic_paces_the_canaries() -> None:
    pace = Pace(interval=1.0, floor=2.0, fast=0.1)
    assert pace.pause(settled=True, traffic=Traffic()) == 1.0
    assert pace.pause(settled=True, traffic=Traffic(successes=5)) == 2.0
    assert pace.pause(settled=True, traffic=Traffic(5, failures=1)) == 0.1
    assert pace.pause(settled=False, traffic=Traffic(successes=5)) == 0.1
