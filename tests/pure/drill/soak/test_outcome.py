"""What came of a soak as a whole."""

from dataclasses import replace

import pytest

from sidecar.drill.record import SOAK, Environment, Figures, Record, Run, Violation
from sidecar.drill.samples import Mark, Sample
from sidecar.drill.soak.outcome import judged, with_all_failures
from sidecar.drill.soak.resource_growth import Inventory, Reading

MIB = 1 << 20
RUN = Run(
    "crash",
    "",
    "",
    3,
    "triton-0",
    "passed",
    figures=Figures(sent=10, failed=1, slowest=0.2, longest_gap=0.3, retried=2),
    marks=(Mark(5.0, "injected", "triton-0"),),
)
RECORD = Record(Environment("", "drill soak", "", "", 7, ""), {}, (RUN, RUN))
FLAT = [Reading(float(at), "xds", (1, 0), 80 * MIB, 10) for at in range(0, 600, 5)]
LEAKING = [replace(each, rss=round(each.rss + each.at * MIB)) for each in FLAT]
TAKEN = (Mark(1.0, "primary", "triton-0", epoch=5), Mark(2.0, "primary", "triton-1", epoch=9))
EXISTS = Inventory(processes={"xds": 1})


def whole(
    record: Record = RECORD,
    readings: list[Reading] = FLAT,
    primaries: tuple[Mark, ...] = TAKEN,
    after: Inventory = EXISTS,
) -> Run:
    return judged(record, readings, primaries, 16.0, EXISTS, after).runs[-1]


def test_a_clean_soak_passes_with_the_sums_of_its_faults() -> None:
    run = whole()
    assert (run.scenario, run.status, run.round) == (SOAK, "passed", 3)
    assert (run.figures.sent, run.figures.failed, run.figures.retried) == (20, 2, 4)
    assert (run.figures.slowest, run.figures.longest_gap) == (0.2, 0.3)


def test_its_record_has_the_processes() -> None:
    [found] = judged(RECORD, FLAT, TAKEN, 16.0, EXISTS, EXISTS).processes
    assert (found.name, found.rss, found.slope) == ("xds", 80 * MIB, 0.0)


def test_memory_that_grows_fails_it() -> None:
    assert [each.code for each in whole(readings=LEAKING).violations] == ["memory"]


def test_what_is_left_behind_fails_it() -> None:
    run = whole(after=Inventory(processes={"xds": 2}))
    assert [each.code for each in run.violations] == ["leaked_processes"]
    assert run.status == "failed"


def test_an_epoch_that_goes_back_fails_it() -> None:
    run = whole(primaries=(*TAKEN, Mark(3.0, "primary", "triton-0", epoch=8)))
    assert [each.code for each in run.violations] == ["epochs"]


def test_whatever_else_was_violated_fails_it() -> None:
    second = Violation("primaries", "triton-0 in epoch 5", "triton-1")
    run = judged(RECORD, FLAT, TAKEN, 16.0, EXISTS, EXISTS, (second,)).runs[-1]
    assert (run.status, run.violations) == ("failed", (second,))


def test_a_soak_without_a_fault_proves_nothing() -> None:
    assert [each.code for each in whole(replace(RECORD, runs=())).violations] == ["faults"]


@pytest.mark.parametrize(
    ("outcome", "kind", "due", "status"),
    [
        ("failed", "unary", 1.0, "failed"),
        ("wrong", "unary", 1.0, "failed"),
        ("failed", "stream", 1.0, "passed"),
        ("failed", "unary", 6.0, "passed"),  # after the injection: the scenario judges it
        ("answered", "unary", 1.0, "passed"),
    ],
)
def test_a_request_may_not_fail_before_its_fault(
    outcome: str, kind: str, due: float, status: str
) -> None:
    sample = Sample(kind, 0, due, 0.1, outcome)  # type: ignore[arg-type]
    assert with_all_failures(replace(RUN, samples=(sample,))).status == status


def test_a_run_without_an_injection_keeps_its_reason() -> None:
    run = replace(RUN, status="aborted", marks=(), samples=(Sample("unary", 0, 1, 1, "failed"),))
    assert with_all_failures(run) == run
