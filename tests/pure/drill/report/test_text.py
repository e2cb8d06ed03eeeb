"""The record and a comparison on a terminal."""

from dataclasses import replace

import pytest

from sidecar.drill.report import comparison, text
from tests.support import drill_records


def test_every_run_has_a_line_and_what_did_not_hold_is_below(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text.print_record(drill_records.record())
    said = capsys.readouterr().out
    row = next(line for line in said.splitlines() if "wrong-answers" in line and "│" in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells[:6] == ["wrong-answers", "triton-0", "failed", "1.31 s", "1.36 s", "1.4 s"]
    assert "wrong-answers: detection: expected at most 1 s, found 1.31 s" in said
    assert f"consul-leader: skipped: {drill_records.skipped().reason}" in said


def test_rounds_are_told_apart() -> None:
    rounds = [drill_records.crash(number, rate=1) for number in (1, 2)]
    grid = text.table(drill_records.record(*rounds))
    assert [row[0].plain for row in grid.rows] == ["crash #1", "crash #2"]


def test_what_was_not_seen_is_a_dash_and_what_was_not_made_is_empty() -> None:
    aborted, skipped = text.table(
        drill_records.record(drill_records.aborted(), drill_records.skipped())
    ).rows
    assert aborted[5].plain == "-"
    assert skipped[5].plain == ""


def test_a_comparison_names_what_got_worse(capsys: pytest.CaptureFixture[str]) -> None:
    run = drill_records.crash(rate=1)
    slower = replace(run, figures=replace(run.figures, rto=2.0), status="failed")
    old, new = drill_records.record(run), drill_records.record(slower)
    text.print_comparison(comparison.compare(old, new))
    said = capsys.readouterr().out
    assert "crash: worse: passed 1 of 1, then 0 of 1, RTO" in said
    assert "28.17" in said
    assert "median latency" not in said


def test_a_comparison_without_change_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    same = drill_records.record(drill_records.crash(rate=1))
    text.print_comparison(comparison.compare(same, same))
    assert capsys.readouterr().out == "nothing got worse beyond the noise\n"


def test_records_that_share_no_scenario_cannot_be_compared(
    capsys: pytest.CaptureFixture[str],
) -> None:
    old = drill_records.record(drill_records.crash(rate=1))
    new = drill_records.record(drill_records.aborted())
    text.print_comparison(comparison.compare(old, new))
    assert "no scenario is in both records" in capsys.readouterr().out


def test_a_soaks_processes_are_in_a_table() -> None:
    soaked = drill_records.soaked(drill_records.crash(rate=1))
    rows = [[cell.plain for cell in row] for row in text.processes(soaked).rows]
    assert [(row[0], row[3], row[5]) for row in rows] == [
        ("envoy", "+1.00 MiB", "flat"),
        ("drill sidecar.drill.load", "not seen", "too short-lived"),
        ("xds", "+40.00 MiB", "grows"),
    ]
