"""The file with the results of benchmarks/peers, and the tables that are made of it."""

import argparse
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.peers import tables
from benchmarks.peers.__main__ import RESULTS, missing, options
from benchmarks.peers.design import DESIGNS, chosen
from benchmarks.peers.faults import FAULTS
from benchmarks.peers.figures import Seen
from benchmarks.peers.store import Result, Session, Store

_SESSION = Session("2026-11-30T10:00:00+00:00", "python -m x", "a machine", "nginx 1", "rate=1", 5)
_SEEN = Seen(100, 3, 2, 1.25, None, math.nan, 0.1)
_CRASH = next(one for one in FAULTS if one.name == "crash")
[_ENVOY] = chosen(["envoy/tuned"])


_SHORT = replace(_SESSION, share=0.1)


def _result(
    seen: Seen | None = _SEEN,
    reason: str = "",
    design: str = "envoy/tuned",
    session: Session = _SESSION,
) -> Result:
    return Result(design, "crash", "2026-11-30T10:01:00+00:00", session, seen, reason)


@pytest.mark.files
def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    Store(path).put(_result())
    json.loads(path.read_text(), parse_constant=pytest.fail)  # no NaN
    found = Store(path).get(_ENVOY, _CRASH)
    assert found is not None
    assert found.seen is not None
    assert (found.seen.sent, found.seen.failed, found.seen.rto) == (100, 3, None)
    assert math.isnan(found.seen.p99)
    assert found.session == _SESSION


@pytest.mark.files
def test_a_shortened_run_is_no_result_and_replaces_none(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    Store(path, 0.1).put(_result(session=_SHORT))
    assert Store(path).get(_ENVOY, _CRASH) is None
    assert Store(path).sessions == []
    Store(path).put(_result(replace(_SEEN, sent=7)))
    shortened, whole = Store(path, 0.1).get(_ENVOY, _CRASH), Store(path).get(_ENVOY, _CRASH)
    assert shortened is not None
    assert whole is not None
    assert (shortened.seen, whole.session) == (_SEEN, _SESSION)


def test_a_page_of_shortened_runs_says_so() -> None:
    store = Store(None, 0.1)
    store.put(_result(session=_SHORT))
    assert "5 runs at a time, SHORTENED to 0.1 of the time, no results;" in tables.page(store)


def test_tables_of_shortened_runs_are_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["peers", "--quick", "--write"])
    with pytest.raises(SystemExit) as ended:
        options()
    assert ended.value.code == 2


def test_a_run_that_failed_does_not_replace_a_measured_one() -> None:
    store = Store(None)
    store.put(_result())
    store.put(_result(None, "no machine"))
    found = store.get(_ENVOY, _CRASH)
    assert found is not None
    assert found.seen == _SEEN


def test_a_measured_run_replaces_one_that_failed() -> None:
    store = Store(None)
    store.put(_result(None, "no machine"))
    store.put(_result())
    found = store.get(_ENVOY, _CRASH)
    assert found is not None
    assert (found.seen, found.reason) == (_SEEN, "")


def test_a_design_that_was_not_measured_has_a_row_and_its_reason() -> None:
    store = Store(None)
    store.put(_result())
    store.put(_result(None, "Envoy rejects it", "connect/as_used"))
    page = tables.page(store)
    assert "| `connect/as_used` | not measured |" in page
    assert "Not measured: `connect/as_used`: Envoy rejects it." in page


def test_an_outdated_result_is_shown_and_run_again() -> None:
    store = Store(None)
    wished = argparse.Namespace(designs=["envoy/tuned"], scenarios=["crash"], again=False)
    store.put(_result())
    assert missing(store, wished) == []
    store.put(replace(_result(), outdated="its check has changed"))
    assert missing(store, wished) == [(_ENVOY, _CRASH)]
    page = tables.page(store)
    assert "| `envoy/tuned` | 3 | 2 | 100 |" in page
    assert "To be measured again: `envoy/tuned`: its check has changed." in page


def test_this_project_in_another_mode_is_no_peer_of_its_defaults() -> None:
    store = Store(None)
    store.put(_result(design="ours"))
    store.put(_result(replace(_SEEN, failed=0, wrong=0), design="ours/active_active"))
    page = tables.page(store)
    row = next(line for line in page.splitlines() if line.startswith("| `ours/active_active`"))
    assert row.endswith("| none, 100 ms | | |")
    assert "Best peer" not in page
    store.put(_result())
    assert "1 of 16 peers are measured. Best peer: `envoy/tuned`" in tables.page(store)


def test_a_page_says_what_its_results_were_made_with() -> None:
    store = Store(None)
    store.put(_result())
    assert tables.page(store).startswith(
        "- 2026-11-30, `python -m x`, 5 runs at a time; a machine; nginx 1; load: rate=1"
    )


@pytest.mark.files
def test_the_committed_results_are_of_designs_and_scenarios_that_exist() -> None:
    found = json.loads(RESULTS.read_text())["results"]
    assert {one["design"] for one in found} <= {one.name for one in DESIGNS}
    assert {one["scenario"] for one in found} <= {one.name for one in FAULTS}
