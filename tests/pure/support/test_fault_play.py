"""Which outcome of a staged fault counts as correct."""

import dataclasses

import pytest

from sidecar.local.load import Failure, Load, LoadTally
from sidecar.verdict.evidence import Reason
from tests.support.faults.fault_play import REFUSED, Outcome, Said
from tests.support.faults.faults import FAULTS, Fault

BY_NAME = {fault.name: fault for fault in FAULTS}
WRONG, SLOW, BROKEN = (
    BY_NAME[name] for name in ("wrong answer", "slow x 20", "canary file broken")
)
HANG = BY_NAME["hang in execute"]
HEALED = 20.0


def outcome(fault: Fault, *said: Said, failed: int = 0) -> Outcome:
    before = Load(LoadTally(failed=[Failure(0.0, "lost")] * failed))
    return Outcome(fault, "triton-0", list(said), HEALED, before, Load(), [])


def critical(reason: Reason, at: float = 1.0) -> Said:
    return Said(at, "CRITICAL", reason, "")


def warning(reason: Reason, at: float = 1.0) -> Said:
    return Said(at, "WARNING", reason, "")


def test_the_expected_verdict_is_a_success() -> None:
    found = outcome(WRONG, critical(Reason.CANARY_WRONG_ANSWER), failed=3)
    assert found.trouble == []
    assert found.intervals == 1.0 / WRONG.interval


def test_the_time_before_a_fault_could_be_noticed_is_not_counted() -> None:
    late = critical(Reason.MODEL_HUNG, HANG.window + 2 * HANG.interval)
    assert outcome(HANG, late).intervals == 2


@pytest.mark.parametrize(
    ("found", "complaint"),
    [
        (outcome(WRONG), "expected CRITICAL, seen"),
        (outcome(WRONG, warning(Reason.MODEL_BUSY)), "expected CRITICAL, seen"),
        (outcome(WRONG, critical(Reason.MODEL_HUNG)), "expected one of"),
        (outcome(WRONG, critical(Reason.CANARY_WRONG_ANSWER, HEALED + 1)), "expected CRITICAL"),
        (outcome(HANG, critical(Reason.MODEL_HUNG), failed=1), "a client noticed: lost"),
        (
            outcome(SLOW, warning(Reason.MODEL_BUSY), critical(Reason.MODEL_HUNG)),
            "expected no",
        ),
        (outcome(BROKEN), "expected reload refused, seen"),
        (
            outcome(BROKEN, Said(0.1, REFUSED, "", "sidecar.toml: …"), critical(Reason.CONFIG)),
            "expected no",
        ),
    ],
)
def test_each_failure_is_reported(found: Outcome, complaint: str) -> None:
    assert found.trouble
    assert found.trouble[0].startswith(complaint)


def test_an_earlier_verdict_does_not_hide_the_expected_one() -> None:
    on_the_way = critical(Reason.SERVER_NOT_READY, 0.2)
    right = critical(Reason.MODEL_WRONG_VERSION, 2.0)
    found = outcome(BY_NAME["wrong version loaded"], on_the_way, right)
    assert found.decisive == right
    assert found.trouble == []


def test_overload_does_not_have_to_be_noticed() -> None:
    assert outcome(dataclasses.replace(SLOW, must_be_noticed=False)).trouble == []


def test_every_fault_has_a_unique_name_and_codes_of_its_state() -> None:
    assert len(BY_NAME) == len(FAULTS)
    for fault in FAULTS:
        if fault.state in ("WARNING", "CRITICAL"):
            assert {reason.level.name for reason in fault.reasons} == {fault.state}
