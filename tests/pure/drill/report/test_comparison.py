"""What got worse from one record to another."""

from dataclasses import replace

import pytest

from sidecar.drill.record import Figures, Record, Run
from sidecar.drill.report import comparison
from sidecar.drill.report.comparison import Change
from tests.support import drill_records


def rounds(*figures: Figures) -> Record:
    run = drill_records.crash(rate=1)
    runs = (replace(run, figures=each, round=n) for n, each in enumerate(figures, start=1))
    return drill_records.record(*runs)


def rto(*seconds: float | None) -> Record:
    return rounds(*(Figures(rto=each) for each in seconds))


def change(old: Record, new: Record, name: str) -> Change:
    (scenario,) = comparison.compare(old, new).scenarios
    return next(each.change for each in scenario.figures if each.kind.name == name)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "same"),
        ((0.5, 0.5, 0.5), (0.54, 0.54, 0.54), "same"),
        ((0.5, 0.5, 0.5), (0.6, 0.6, 0.6), "worse"),
        ((0.6, 0.6, 0.6), (0.5, 0.5, 0.5), "better"),
        ((0.4, 0.5, 0.6), (0.7, 0.8, 0.9), "same"),  # within three deviations
        ((0.49, 0.5, 0.51), (0.7, 0.8, 0.81), "worse"),
        ((0.5, 0.5, 0.5), (0.5, 0.5, 9.0), "same"),  # one round of three
        ((0.001, 0.001, 0.001), (0.004, 0.004, 0.004), "same"),
        ((0.5,), (0.7,), "same"),  # one round says little
        ((0.5,), (0.8,), "worse"),
        ((0.5, 0.5, 0.5), (None, None, None), "worse"),
        ((None,), (0.5,), "unknown"),
    ],
)
def test_a_time_changed_if_it_did_by_more_than_the_rounds_differ(
    old: tuple[float | None, ...], new: tuple[float | None, ...], found: Change
) -> None:
    assert change(rto(*old), rto(*new), "rto") == found


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ((0, 0, 0), (0, 0, 1), "worse"),
        ((0, 3, 0), (2, 0, 2), "same"),
        ((2, 2, 2), (2, 2, 2), "same"),
        ((2, 2, 2), (1, 0, 0), "better"),
    ],
)
def test_more_failed_requests_than_ever_before_are_worse(
    old: tuple[int, ...], new: tuple[int, ...], found: Change
) -> None:
    made = [rounds(*(Figures(failed=each) for each in every)) for every in (old, new)]
    assert change(made[0], made[1], "failed") == found


def test_wrong_answers_that_are_no_longer_seen_are_not_worse() -> None:
    old, new = rounds(Figures(wrong=3, wrong_last=0.5)), rounds(Figures())
    assert change(old, new, "wrong") == "better"
    assert change(old, new, "wrong_last") == "unknown"
    assert not comparison.compare(old, new).worse


def test_counts_that_cost_nothing_are_not_judged() -> None:
    assert change(rounds(Figures(sent=1)), rounds(Figures(sent=9)), "sent") == "unknown"


def test_ratios_are_of_the_new_median_to_the_old() -> None:
    (scenario,) = comparison.compare(rto(0.4, 0.5, 0.6), rto(1.0)).scenarios
    found = {each.kind.name: each.ratio for each in scenario.figures}
    assert found["rto"] == 2.0
    assert found["failed"] is None


def test_a_scenario_that_no_longer_passes_is_worse() -> None:
    passed = drill_records.crash(rate=1)
    failed = replace(passed, status="failed")
    made = comparison.compare(drill_records.record(passed), drill_records.record(failed))
    assert (made.scenarios[0].change, made.scenarios[0].note) == (
        "worse",
        "passed 1 of 1, then 0 of 1",
    )
    assert made.worse
    assert not comparison.compare(drill_records.record(failed), drill_records.record(passed)).worse


def test_a_record_is_no_worse_than_itself() -> None:
    made = comparison.compare(drill_records.record(), drill_records.record())
    assert not made.worse
    assert made.differences == ()
    assert [each.name for each in made.scenarios] == ["crash", "wrong-answers", "freeze"]


def test_other_machines_loads_versions_and_objectives_are_pointed_out() -> None:
    run = drill_records.crash(rate=1)
    old = drill_records.record(run, drill_records.skipped())
    other = replace(old.environment, machine="a laptop", load="none", versions={"envoy": "1.41.0"})
    new = Record(other, {"rto": 2.0}, (made(run, "freeze"), made(run, "consul-leader")))
    said = "\n".join(comparison.compare(old, new).differences)
    for words in (
        "machine differs: 8 cores of AMD EPYC 9354, 64 GiB, Linux 6.1, then a laptop",
        "load differs",
        "version of envoy differs: 1.40.0, then 1.41.0",
        "version of consul differs: 1.23.0, then none",
        "objective rto differs: 1.0, then 2.0",
        "crash was made before, and not now",
        "consul-leader was not made before",
    ):
        assert words in said


def made(run: Run, scenario: str) -> Run:
    return replace(run, scenario=scenario)
