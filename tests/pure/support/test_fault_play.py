"""What counts as the right outcome of a staged fault."""

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


def test_the_right_verdict_is_no_trouble() -> None:
    found = outcome(WRONG, critical(Reason.CANARY_WRONG_ANSWER), failed=3)
    assert found.trouble == []
    assert found.intervals == 1.0 / WRONG.interval


def test_what_nobody_could_know_before_is_not_counted() -> None:
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
def test_trouble_is_told(found: Outcome, complaint: str) -> None:
    assert found.trouble
    assert found.trouble[0].startswith(complaint)


def test_a_verdict_on_the_way_does_not_hide_the_right_one() -> None:
    on_the_way = critical(Reason.SERVER_NOT_READY, 0.2)
    right = critical(Reason.MODEL_WRONG_VERSION, 2.0)
    found = outcome(BY_NAME["wrong version loaded"], on_the_way, right)
    assert found.decisive == right
    assert found.trouble == []


def test_overload_need_not_be_noticed() -> None:
    assert outcome(dataclasses.replace(SLOW, must_be_noticed=False)).trouble == []


def test_every_fault_has_a_name_of_its_own_and_codes_of_its_state() -> None:
    assert len(BY_NAME) == len(FAULTS)
    for fault in FAULTS:
        if fault.state in ("WARNING", "CRITICAL"):
            assert {reason.level.name for reason in fault.reasons} == {fault.state}
