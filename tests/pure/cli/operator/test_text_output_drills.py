"""Drills in `list` and `history`, for people and for programs."""

import json
from dataclasses import replace

import pytest

from sidecar.cli.operator import json_output, text_output
from sidecar.election.keys.history import DrillEntry, Entry
from sidecar.injection.keys import Order
from sidecar.operator.operator_client import History
from tests.support.operator_scene import NOW, entry, seen

RUNS = Order("d1", "jane@desk", NOW, "night", "a", "freeze", 30.0)
DONE = DrillEntry(
    *("d1", "night", "freeze", "a", "jane@desk", "2026-11-24T10:00:01.513Z"),
    *("2026-11-24T10:00:14.902Z", "done", "ended"),
)
REFUSED = replace(DONE, drill="d2", outcome="refused", code="others_unwell")
KILLED = replace(DONE, drill="d3", ended="", outcome="", code="")
MOVED = Entry("2026-11-24T07:36:12.135Z", "b", "the lock was free", "a")


def test_list_shows_the_drill_that_runs(capsys: pytest.CaptureFixture[str]) -> None:
    status = replace(seen(entry("a"), entry("b")), drill=RUNS)
    text_output.situation(status, wide=True)
    assert "a drill runs, by jane@desk since 20" in capsys.readouterr().out
    json_output.situation(status)
    shown = json.loads(capsys.readouterr().out)["drill"]
    assert (shown["victim"], shown["scenario"], shown["fault"]) == ("a", "night", "freeze")
    json_output.situation(seen(entry("a"), entry("b")))
    assert json.loads(capsys.readouterr().out)["drill"] is None


def test_history_shows_what_became_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    found = History((MOVED,), (DONE, REFUSED, KILLED))
    text_output.history(found, wide=True)
    said = capsys.readouterr().out
    assert "drill by jane@desk: night on a, done at 2026-11-24T10:00:14.902Z\n" in said
    assert "night on a, refused (others_unwell) at " in said
    assert "night on a, no end is recorded\n" in said
    json_output.history(found)
    document = json.loads(capsys.readouterr().out)
    assert [each["outcome"] for each in document["drills"]] == ["done", "refused", ""]
    assert len(document["history"]) == 1
