"""Which outcome of a staged fault counts as correct."""

import pytest

from sidecar.drill.record import Run, Status, Violation
from sidecar.drill.samples import Mark
from sidecar.verdict.evidence import Reason
from tests.support.faults.faults import FAULTS, QUEUED, Fault
from tests.support.faults.outcome import Outcome

BY_NAME = {fault.name: fault for fault in FAULTS}
WRONG, SLOW, BROKEN, HANG, VERSION, LOADING, QUEUE = (
    BY_NAME[name]
    for name in (
        "wrong answer",
        "slow x 20",
        "canary file broken",
        "hang in execute",
        "wrong version loaded",
        "model loads for 20 s",
        f"{QUEUED} queued requests",
    )
)
VICTIM = "triton-0"
BEGAN = 5.0
RESTORED = Mark(25.0, "restored", VICTIM)


def outcome(
    fault: Fault, *verdicts: Mark, states: str = "", violations: tuple[Violation, ...] = ()
) -> Outcome:
    marks = (Mark(BEGAN, "injected", VICTIM), *verdicts, RESTORED)
    status: Status = "failed" if violations else "passed"
    run = Run("", "", "", 1, VICTIM, status, violations=violations, marks=marks)
    return Outcome(fault, run, tuple(states.split()))


def critical(reason: Reason, after: float = 1.0) -> Mark:
    return Mark(BEGAN + after, "verdict", VICTIM, status="critical", reason=reason)


def warning(reason: Reason, after: float = 1.0) -> Mark:
    return Mark(BEGAN + after, "verdict", VICTIM, status="warning", reason=reason)


@pytest.mark.parametrize(
    "found",
    [
        outcome(WRONG, critical(Reason.CANARY_WRONG_ANSWER), states="CRITICAL"),
        outcome(SLOW, warning(Reason.MODEL_BUSY), states="WARNING PASSING"),
        outcome(QUEUE),
        outcome(QUEUE, warning(Reason.MODEL_BUSY), states="WARNING"),
        outcome(LOADING, critical(Reason.PORT_UNREACHABLE), states="DRAINING STARTING"),
        outcome(BROKEN),
    ],
)
def test_the_expected_verdict_is_a_success(found: Outcome) -> None:
    assert found.trouble == []


def test_the_time_before_a_fault_could_be_noticed_is_not_counted() -> None:
    late = critical(Reason.MODEL_HUNG, HANG.window + 2 * HANG.interval)
    assert outcome(HANG, late).intervals == 2
    assert outcome(HANG, late).after == HANG.window + 2 * HANG.interval
    assert outcome(HANG).intervals is None


@pytest.mark.parametrize(
    "found",
    [
        outcome(WRONG),
        outcome(WRONG, warning(Reason.MODEL_BUSY), states="WARNING"),
        outcome(SLOW, warning(Reason.MODEL_BUSY), states="WARNING CRITICAL"),
        outcome(QUEUE, warning(Reason.SERVER_NOT_READY), states="WARNING"),
        outcome(LOADING, critical(Reason.PORT_UNREACHABLE), states="STARTING CRITICAL"),
        outcome(BROKEN, states="WARNING"),
        outcome(HANG, states="CRITICAL", violations=(Violation("failed", "0", "1 of 9"),)),
    ],
)
def test_each_difference_is_a_trouble(found: Outcome) -> None:
    assert len(found.trouble) == 1


def test_a_run_that_a_stop_condition_ended_is_a_trouble() -> None:
    run = Run("", "", "", 1, VICTIM, "aborted", "load_failed", "the load's process died")
    assert "the load's process died" in Outcome(BROKEN, run, ()).trouble[0]


def test_an_earlier_verdict_does_not_hide_the_expected_one() -> None:
    on_the_way = critical(Reason.MODEL_NOT_READY, 0.2)
    right = critical(Reason.MODEL_WRONG_VERSION, 2.0)
    after = critical(Reason.MODEL_WRONG_VERSION, 21.0)
    assert outcome(VERSION, on_the_way, right, after).decisive == right
    assert outcome(VERSION, on_the_way, after).decisive is None
    assert outcome(VERSION, on_the_way, right).reason == Reason.MODEL_WRONG_VERSION


def test_every_fault_has_a_unique_name_and_codes_of_its_state() -> None:
    assert len(BY_NAME) == len(FAULTS)
    for fault in FAULTS:
        if fault.state in ("WARNING", "CRITICAL"):
            assert {reason.level.name for reason in fault.reasons} == {fault.state}
