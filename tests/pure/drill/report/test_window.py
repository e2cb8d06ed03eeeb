"""Which part of a run is drawn, and with which labels."""

from dataclasses import replace

import pytest

from sidecar.drill.record import Run
from sidecar.drill.report import window
from sidecar.drill.report.window import Place
from sidecar.drill.samples import Mark, Sample
from tests.support import drill_records

WIDE, NARROW = Place(800.0, 14.0, 8.0), Place(280.0, 12.0, 7.0)


@pytest.fixture(scope="module")
def crash() -> Run:
    return drill_records.crash()


def test_the_whole_run_holds_every_request_and_event(crash: Run) -> None:
    shown = window.whole(crash)
    assert len(list(window.seen(crash, shown))) == len(crash.samples)
    assert [number for number, _, _ in window.marked(crash, shown)] == list(range(1, 10))


def test_the_moments_of_the_failover_have_their_own_picture(crash: Run) -> None:
    shown = window.failover(crash)
    assert shown is not None
    assert [mark.event for _, mark, _ in window.marked(crash, shown)] == [
        "injected",
        "verdict",
        "primary",
        "published",
        "acked",
        "traffic",
    ]


def test_no_picture_of_moments_where_nothing_is_gained() -> None:
    assert window.failover(drill_records.aborted()) is None
    assert window.failover(drill_records.skipped()) is None
    slow = replace(drill_records.crash(rate=1), marks=drill_records.marks(detected=9.0))
    assert window.failover(slow) is None


def test_times_are_since_the_injection_or_the_first_request() -> None:
    sample = Sample("unary", 0, 5.0, 0.1, "answered")
    run = Run("a", "", "", 1, "", "passed", samples=(sample,))
    assert window.zero(run) == 5.0
    assert window.zero(replace(run, marks=(Mark(7.0, "injected"),))) == 7.0
    assert window.zero(drill_records.skipped()) == 0.0


@pytest.mark.parametrize("place", [WIDE, NARROW], ids=["wide", "narrow"])
def test_labels_are_words_and_times_where_they_fit(crash: Run, place: Place) -> None:
    shown, labels = window.labelled(crash, window.whole(crash), place)
    words = [label.text for label in labels]
    assert words[:3] == ["injected 0 ms", "verdict 12 ms", "primary 48 ms"]
    assert shown.left == window.whole(crash).left
    assert shown.right >= window.whole(crash).right


def test_too_many_labels_are_numbers() -> None:
    run = drill_records.flapping()
    _, labels = window.labelled(run, window.whole(run), NARROW)
    assert {label.lane for label in labels} == {0}
    assert labels[0].text.startswith("1-")
    assert labels[-1].text.endswith("120")


def test_the_axis_reaches_whole_decades_and_no_request_leaves_it() -> None:
    samples = tuple(Sample("unary", 0, 0.0, took, "answered") for took in (0.0, 0.002, 1.0))
    low, high = window.decades(Run("a", "", "", 1, "", "passed", samples=samples))
    assert low == pytest.approx(1e-4)
    assert high == pytest.approx(10.0)
    assert min(window.points(samples, 0.0)[1]) >= low
