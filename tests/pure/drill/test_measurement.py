"""From samples and marks to figures."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.drill.measurement import longest_gap, measure, quantile
from sidecar.drill.objectives import Objectives
from sidecar.drill.record import Figures
from sidecar.drill.samples import Mark, Sample

TIMES = st.integers(0, 100_000).map(lambda number: number / 1000)
SAMPLES = st.builds(
    Sample,
    kind=st.sampled_from(["unary", "stream"]),
    client=st.integers(0, 3),
    due=TIMES,
    took=TIMES,
    outcome=st.sampled_from(["answered", "failed", "wrong"]),
    instance=st.sampled_from(["", "old", "new"]),
    began_on=st.sampled_from(["", "old", "new"]),
)
MARKS = st.builds(
    Mark,
    at=TIMES,
    event=st.sampled_from(["verdict", "primary", "published", "acked", "recovered", "traffic"]),
    instance=st.sampled_from(["old", "new"]),
    status=st.sampled_from(["passing", "critical"]),
    epoch=st.sampled_from([0, 7]),
)


def sample(due: float, took: float = 0.1, outcome: str = "answered", **other: object) -> Sample:
    """A unary request of client 0 that the old primary answered."""
    usual = Sample("unary", 0, due, took, "answered", "old")
    return replace(usual, outcome=outcome, **other)  # type: ignore[arg-type]


def figures(samples: Sequence[Sample], *marks: Mark, injected: float = 10.0) -> Figures:
    return measure(
        samples,
        marks,
        injected=injected,
        victim="old",
        primary="old",
        objectives=Objectives(availability=0.9),
    )


def test_marks_count_from_the_injection() -> None:
    found = figures(
        [],
        Mark(9.0, "verdict", "old", status="critical"),
        Mark(10.2, "verdict", "other", status="critical"),
        Mark(10.4, "verdict", "old", status="passing", reason="OK"),
        Mark(10.5, "verdict", "old", status="critical", reason="MODEL_HUNG"),
        Mark(10.6, "primary", "old", epoch=8),
        Mark(10.75, "primary", "new", epoch=9),
        Mark(11.0, "published"),
        Mark(11.25, "acked"),
        Mark(19.0, "recovered"),
    )
    assert (found.detection, found.decision) == (0.5, 0.75)
    assert (found.publication, found.acked, found.recovered) == (1.0, 1.25, 9.0)


def test_what_was_not_seen_is_none() -> None:
    assert figures([]) == Figures(budget_used=0.0)


def test_only_what_ended_after_the_injection_counts() -> None:
    found = figures(
        [
            sample(5.0),
            sample(9.8, outcome="failed"),
            sample(9.95),
            sample(10.0, 0.5),
            sample(11.0, outcome="failed"),
            sample(12.0, outcome="wrong"),
            sample(12.0, 2.0, kind="stream", outcome="failed"),
            sample(12.0, 2.0, kind="stream", outcome="wrong"),
            sample(12.0, 2.0, kind="stream", instance="new", began_on="old"),
        ]
    )
    assert (found.sent, found.failed, found.wrong) == (4, 1, 1)
    assert (found.streams, found.streams_cut, found.streams_wrong) == (3, 1, 1)
    assert found.streams_moved == 1
    assert (found.p50, found.slowest, found.p99_before) == (0.5, 0.5, 0.1)


def test_availability_is_of_all_unary_requests_of_the_run() -> None:
    before = [sample(each, outcome="failed" if each == 3 else "answered") for each in range(8)]
    found = figures([*before, sample(11.0, outcome="failed"), sample(12.0, outcome="wrong")])
    assert (found.failed, found.availability) == (1, 0.8)
    assert found.budget_used == pytest.approx(2.0)
    assert figures([sample(11.0, kind="stream", outcome="failed")]).availability is None


def test_one_of_a_thousand_meets_an_availability_of_999() -> None:
    samples = [sample(each, outcome="failed" if each == 11 else "answered") for each in range(1000)]
    assert figures(samples).availability == 0.999


def test_the_lag_of_the_load_is_the_worst_after_the_injection() -> None:
    found = figures([sample(5.0, late=2.0), sample(11.0, late=0.3), sample(12.0, late=0.1)])
    assert found.load_lag == 0.3


def of_the_mesh(samples: Sequence[Sample], *marks: Mark) -> Figures:
    return measure(samples, marks, injected=10.0, victim="", primary="old", objectives=Objectives())


def test_rto_of_the_mesh_counts_from_when_the_old_primary_stopped_serving() -> None:
    """A rolling restart comes to the primary last."""
    others = Mark(11.0, "verdict", "new", status="critical")
    stopped = Mark(30.0, "verdict", "old", status="critical")
    taken = Mark(32.0, "primary", "new", epoch=9)
    answers = [sample(12.0, instance="new"), sample(32.5, 0.5, instance="new")]
    assert of_the_mesh(answers, others, stopped, taken).rto == 3.0
    assert of_the_mesh(answers, others, taken).rto == 1.0
    assert of_the_mesh(answers, others).rto == pytest.approx(2.1)
    assert figures(answers, others, stopped, taken).rto == pytest.approx(2.1)


def test_rto_is_the_first_right_answer_of_another_instance_to_a_later_request() -> None:
    assert figures([sample(9.9, 1.0, instance="new")]).rto is None
    assert figures([sample(11.0, instance="new", outcome="wrong")]).rto is None
    found = figures([sample(10.5, 2.0, instance="new"), sample(11.0, 0.25, instance="new")])
    assert found.rto == 1.25


def test_without_named_instances_rto_is_the_traffic_that_was_seen() -> None:
    marks = (Mark(10.1, "traffic", "old"), Mark(10.75, "traffic", "new"))
    assert figures([sample(11.0, instance="")], *marks).rto == 0.75
    assert figures([sample(11.0)], *marks).rto is None


def test_with_neither_names_nor_traffic_rto_is_after_all_envoys_know() -> None:
    before, after = sample(10.5, 1.0, instance=""), sample(11.0, 0.5, instance="")
    moved = Mark(10.75, "acked", "new", epoch=9)
    assert figures([before, after], moved).rto == 1.5
    assert figures([before], moved).rto is None
    assert figures([after], Mark(10.75, "acked", "old", epoch=9)).rto is None


def test_a_gap_begins_when_a_request_is_due_that_has_no_answer() -> None:
    samples = [sample(8.9), sample(9.5, 1.0, "failed"), sample(11.9)]
    assert longest_gap(samples, 10.0) == pytest.approx(2.5)


def test_a_client_with_nothing_to_send_has_no_gap() -> None:
    assert longest_gap([sample(9.9), sample(90.0)], 10.0) == pytest.approx(0.1)


def test_a_request_that_waits_beside_answered_ones_is_no_gap() -> None:
    samples = [sample(9.0, 5.0), *(sample(10.0 + each) for each in range(4))]
    assert longest_gap(samples, 9.5) == pytest.approx(1.1)


def test_gaps_are_those_of_one_client_each() -> None:
    samples = [sample(each, client=number) for number in (0, 1) for each in (9.0, 10.0, 11.0)]
    samples.append(sample(15.0, 5.0, "failed", client=1))
    assert longest_gap(samples, 10.0) == pytest.approx(5.0)
    assert longest_gap(samples[:3], 10.0) == pytest.approx(0.1)


def test_a_client_that_is_never_answered_waits_all_along() -> None:
    assert longest_gap([sample(9.0, 30.0, "failed")], 10.0) == pytest.approx(30.0)


def test_a_gap_before_the_injection_does_not_count() -> None:
    assert longest_gap([sample(1.0), sample(8.0)], 10.0) is None
    assert longest_gap([sample(1.0), sample(8.0), sample(10.0)], 10.0) == pytest.approx(0.1)


def test_wrong_answers_are_told_apart_by_the_verdict() -> None:
    samples = [sample(each, outcome="wrong") for each in (10.5, 11.5, 12.5, 13.5)]
    verdict = Mark(11.0, "verdict", "old", status="critical", reason="CANARY_WRONG_ANSWER")
    published, acked = Mark(12.0, "published"), Mark(13.0, "acked")
    assert figures(samples).wrong_after_verdict == 0
    assert figures(samples, verdict).wrong_after_verdict == 3
    assert figures(samples, verdict, published).wrong_after_verdict == 2
    assert figures(samples, verdict, published, acked).wrong_after_verdict == 1
    assert figures(samples).wrong_last == 3.5


@given(st.lists(SAMPLES, max_size=30), st.lists(MARKS, max_size=10), TIMES)
def test_figures_agree_with_each_other(
    samples: list[Sample], marks: list[Mark], injected: float
) -> None:
    found = figures(samples, *marks, injected=injected)
    assert found == figures(samples[::-1], *marks[::-1], injected=injected)
    assert found.failed + found.wrong <= found.sent
    assert found.streams_cut + found.streams_wrong + found.streams_moved <= found.streams
    after = [each for each in samples if each.ended >= injected]
    assert found.sent + found.streams == len(after)
    if found.p50 is not None and found.p99 is not None and found.slowest is not None:
        assert found.p50 <= found.p99 <= found.slowest
    for seconds in (found.detection, found.decision, found.rto, found.recovered, found.wrong_last):
        assert seconds is None or seconds >= 0


@given(st.lists(SAMPLES, max_size=30), TIMES, st.integers(-500, 500))
def test_only_differences_of_times_count(
    samples: list[Sample], injected: float, shift: int
) -> None:
    moved = [replace(each, due=each.due + shift) for each in samples]
    gap, other = longest_gap(samples, injected), longest_gap(moved, injected + shift)
    # A request that ends exactly at the injection may fall on either side when rounded.
    if all(abs(each.ended - injected) > 1e-6 for each in samples):
        assert gap == pytest.approx(other)


@given(st.lists(SAMPLES, max_size=30), TIMES)
def test_a_gap_is_within_what_was_observed(samples: list[Sample], injected: float) -> None:
    unary = [each for each in samples if each.kind == "unary"]
    gap = longest_gap(samples, injected)
    if not any(each.ended >= injected for each in unary):
        assert gap is None
        return
    assert gap is not None
    ends = max(each.ended for each in unary)
    assert 0 <= gap <= ends - min(each.due for each in unary) + 1e-9
    failed = [replace(each, outcome="failed") for each in samples]
    assert (longest_gap(failed, injected) or 0.0) >= gap - 1e-9


@given(st.lists(TIMES, min_size=1), st.floats(0, 1))
def test_a_quantile_is_one_of_the_times(times: list[float], share: float) -> None:
    found = quantile(sorted(times), share)
    assert found in times
    assert sum(each <= (found or 0.0) for each in times) >= share * len(times)
