"""How figures are printed, and which are said to meet their objectives."""

from dataclasses import fields, replace

import pytest

from sidecar.drill.record import Figures, Violation
from sidecar.drill.report import figures
from tests.support import drill_records


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 ms"),
        (0.00004, "0 ms"),
        (0.0004, "0.4 ms"),
        (0.001, "1 ms"),
        (0.0014, "1.4 ms"),
        (0.00996, "10 ms"),
        (0.0126, "13 ms"),
        (-0.2, "-200 ms"),
        (0.9996, "1 s"),
        (1.239, "1.24 s"),
        (99.97, "100 s"),
        (119.6, "2 min"),
        (125.2, "2 min 5 s"),
    ],
)
def test_a_duration_has_the_unit_that_one_would_say(seconds: float, words: str) -> None:
    assert figures.duration(seconds) == words


def test_every_figure_has_a_title() -> None:
    assert [kind.name for kind in figures.KINDS] == [each.name for each in fields(Figures)]


def test_a_violation_decides_whether_an_objective_is_met() -> None:
    run = drill_records.wrong_answers()
    rows = {row.kind.name: row for row in figures.rows(run, {"rto": 1.0, "recovered": 1.0})}
    assert (rows["rto"].objective, rows["rto"].met) == ("at most 1 s", "met")
    assert rows["detection"].met == rows["longest_gap"].met == "not met"
    assert rows["wrong"].met == ""


def test_availability_has_a_row_with_its_objective() -> None:
    run = drill_records.crash(rate=1)
    for share, met in ((0.9995, "met"), (0.99, "not met")):
        broken = (Violation("availability", "", ""),) if met == "not met" else ()
        made = replace(run, figures=Figures(availability=share), violations=broken)
        rows = {row.kind.name: row for row in figures.rows(made, {"availability": 0.999})}
        found = rows["availability"]
        assert (found.objective, found.met) == ("99.9 % answered", met)
        assert rows["failed"].objective == ""
    assert figures.amount("share", 0.9995) == "99.95 %"


@pytest.mark.parametrize(
    ("lag", "slowest", "large"),
    [(0.3, 1.0, True), (0.2, 1.0, False), (0.05, 0.06, True), (0.04, 0.04, False)],
)
def test_a_lag_that_may_explain_the_slowest_request_is_hinted_at(
    lag: float, slowest: float, large: bool
) -> None:
    made = Figures(load_lag=lag, slowest=slowest)
    assert bool(figures.hint(replace(drill_records.crash(rate=1), figures=made))) is large
    assert not figures.hint(drill_records.skipped())


def test_what_was_not_seen_or_did_not_end_is_not_judged() -> None:
    run = replace(drill_records.aborted(), figures=Figures(longest_gap=0.1))
    rows = {r.kind.name: r for r in figures.rows(run, {"rto": 1.0, "longest_gap": 1.0})}
    assert (rows["rto"].shown, rows["rto"].met) == ("not seen", "open")
    assert rows["longest_gap"].met == "open"


def test_an_objective_of_a_scenario_replaces_the_general_one() -> None:
    objectives = {"rto": 1.0, "crash.rto": 2.0, "freeze.rto": 3.0}
    assert figures.of(drill_records.crash(rate=1), objectives) == {"rto": 2.0}
    assert figures.title("freeze.rto") == "freeze: RTO"
    assert figures.title("wrong_window") == "wrong window"


def test_a_budget_that_is_not_there_cannot_be_used() -> None:
    assert figures.amount("share", 0.256) == "25.6 %"
    assert figures.amount("share", float("inf")) == "there is none"


def test_what_is_rare_has_a_row_only_where_it_is_something() -> None:
    run = drill_records.aborted()
    assert not {"streams_wrong", "wrong_last"} & {row.kind.name for row in figures.rows(run, {})}
    wrong = replace(run, figures=Figures(wrong=2, wrong_last=0.4))
    rows = {row.kind.name: row for row in figures.rows(wrong, {"wrong_window": 5.0})}
    assert (rows["wrong_last"].shown, rows["wrong_last"].objective) == ("400 ms", "at most 5 s")
    late = replace(run, violations=(Violation("wrong_after_verdict", "0 requests", "none"),))
    assert "wrong_after_verdict" in [row.kind.name for row in figures.rows(late, {})]
