"""Which outcome of a staged fault counts as correct."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sidecar.drill.load.process import RunningLoad
from sidecar.drill.record import Figures, Run, Status, Violation
from sidecar.drill.samples import Kind, Mark, Sample
from sidecar.drill.scenario import Scenario
from sidecar.drill.stage.mesh import MeshStage
from sidecar.verdict.evidence import Reason
from tests.support.faults.faults import FAULTS, LOADING, QUEUED, Fault
from tests.support.faults.outcome import Outcome, watched
from tests.support.mesh.mesh import LiveMesh

BY_NAME = {fault.name: fault for fault in FAULTS}
WRONG, EMPTY, SLOW, BROKEN, HANG, VERSION, LOADS, QUEUE = (
    BY_NAME[name]
    for name in (
        "wrong answer",
        "empty stream",
        "slow x 20",
        "canary file broken",
        "hang in execute",
        "wrong version loaded",
        f"model loads for {LOADING} s",
        f"{QUEUED} queued requests",
    )
)
VICTIM = "triton-0"
BEGAN, REMOVED = 5.0, 25.0
RESTORED = Mark(REMOVED, "restored", VICTIM)
# Asked after each verdict that comes in time, and answered while the fault lasts.
ANSWERED = Sample("unary", 0, REMOVED - 1.0, 0.5, "answered")
NONE = Figures()


def outcome(
    fault: Fault,
    *verdicts: Mark,
    states: str = "",
    violations: tuple[Violation, ...] = (),
    figures: Figures = NONE,
    samples: tuple[Sample, ...] = (ANSWERED,),
) -> Outcome:
    marks = (Mark(BEGAN, "injected", VICTIM), *verdicts, RESTORED)
    status: Status = "failed" if violations else "passed"
    run = Run("", "", "", 1, VICTIM, status, "", "", figures, violations, marks, samples)
    return Outcome(fault, run, tuple(states.split()))


def critical(reason: Reason, after: float = 1.0) -> Mark:
    return Mark(BEGAN + after, "verdict", VICTIM, status="critical", reason=reason)


def warning(reason: Reason, after: float = 1.0) -> Mark:
    return Mark(BEGAN + after, "verdict", VICTIM, status="warning", reason=reason)


def noticed(*samples: Sample) -> Outcome:
    """Wrong answers that were noticed, and the requests of the run."""
    verdict = critical(Reason.CANARY_WRONG_ANSWER)
    return outcome(WRONG, verdict, states="CRITICAL", samples=samples)


@pytest.mark.parametrize(
    "found",
    [
        noticed(ANSWERED),
        outcome(
            EMPTY,
            critical(Reason.CANARY_WRONG_ANSWER),
            states="CRITICAL",
            figures=Figures(streams_wrong=1),
        ),
        outcome(SLOW, warning(Reason.MODEL_BUSY), states="WARNING PASSING"),
        outcome(QUEUE),
        outcome(QUEUE, warning(Reason.MODEL_BUSY), states="WARNING"),
        outcome(LOADS, critical(Reason.PORT_UNREACHABLE), states="DRAINING STARTING"),
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


TOO_LATE = critical(Reason.CANARY_WRONG_ANSWER, REMOVED - BEGAN + 1.0)


@pytest.mark.parametrize(
    ("found", "begins"),
    [
        (outcome(WRONG), "expected CRITICAL, found no verdict"),
        (
            outcome(WRONG, warning(Reason.MODEL_BUSY), states="WARNING"),
            "expected CRITICAL, found WARNING",
        ),
        (outcome(WRONG, TOO_LATE), "expected CRITICAL, found no verdict"),
        (
            outcome(WRONG, TOO_LATE, states="CRITICAL"),
            "expected CANARY_WRONG_ANSWER before the removal, found no verdict",
        ),
        (
            outcome(WRONG, critical(Reason.MODEL_HUNG), states="CRITICAL"),
            "expected CANARY_WRONG_ANSWER before the removal, found MODEL_HUNG",
        ),
        (
            outcome(SLOW, warning(Reason.MODEL_BUSY), states="WARNING CRITICAL"),
            "expected WARNING, found CRITICAL",
        ),
        (
            outcome(QUEUE, warning(Reason.SERVER_NOT_READY), states="WARNING"),
            "expected CANARY_LATE or CANARY_SLOW or MODEL_BUSY or TRAFFIC_SLOW, found",
        ),
        (
            outcome(LOADS, critical(Reason.PORT_UNREACHABLE), states="STARTING CRITICAL"),
            "expected STARTING, found CRITICAL",
        ),
        (outcome(BROKEN, states="WARNING"), "expected no verdict, found WARNING"),
        (
            outcome(
                HANG,
                critical(Reason.MODEL_HUNG),
                states="CRITICAL",
                violations=(Violation("failed", "0 requests", "1 of 9"),),
            ),
            "failed: 0 requests, found 1 of 9",
        ),
    ],
)
def test_each_difference_is_a_trouble(found: Outcome, begins: str) -> None:
    [trouble] = found.trouble
    assert trouble.startswith(begins)


@pytest.mark.parametrize(
    ("fault", "figures", "kind"),
    [(EMPTY, Figures(wrong=1), "unary"), (WRONG, Figures(streams_wrong=1), "stream")],
)
def test_answers_of_the_other_model_must_be_right(
    fault: Fault, figures: Figures, kind: Kind
) -> None:
    verdict = critical(Reason.CANARY_WRONG_ANSWER)
    [trouble] = outcome(fault, verdict, states="CRITICAL", figures=figures).trouble
    assert trouble.startswith(f"expected no wrong answer to {kind} requests")


@pytest.mark.parametrize(
    "sample",
    [
        Sample("unary", 0, BEGAN + 0.5, 1.0, "answered"),
        Sample("unary", 0, REMOVED - 1.0, 1.5, "answered"),
        Sample("unary", 0, REMOVED - 1.0, 0.5, "failed"),
    ],
    ids=["asked before the verdict", "answered after the removal", "not answered"],
)
def test_clients_have_answers_while_the_fault_lasts(sample: Sample) -> None:
    [trouble] = noticed(sample).trouble
    assert trouble.startswith("expected answers between the verdict and the removal")
    assert noticed().trouble == []  # without clients


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


class FakeMesh(LiveMesh):
    """A mesh with one sidecar, whose log is a list of states."""

    def __init__(self) -> None:
        super().__init__(Path())
        self.logged: list[str] = []
        self.newest = RunningLoad(Path())

    def written(self, part: str) -> int:
        assert part == "sidecar-0"
        return len(self.logged)

    def states(self, sidecar: str, since: int) -> list[str]:
        return self.logged[since:]


async def test_only_what_is_logged_while_the_fault_lasts_counts() -> None:
    mesh, states = FakeMesh(), list[str]()

    @asynccontextmanager
    async def fault(stage: MeshStage, victim: str) -> AsyncIterator[None]:
        mesh.logged.append("CRITICAL")
        yield
        mesh.logged.append("STARTING")

    scenario = watched(mesh, Scenario("", "", "", fault), 0, states)
    mesh.logged.append("WARNING")
    async with scenario.inject(mesh, VICTIM):
        mesh.logged.append("PASSING")
    mesh.logged.append("UNKNOWN")
    assert states == ["CRITICAL", "PASSING"]


def test_every_fault_has_a_unique_name_and_codes_of_its_state() -> None:
    assert len(BY_NAME) == len(FAULTS)
    for fault in FAULTS:
        if fault.state in ("WARNING", "CRITICAL"):
            assert {reason.level.name for reason in fault.reasons} == {fault.state}
