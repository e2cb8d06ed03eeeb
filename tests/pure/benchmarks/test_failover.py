"""What benchmarks/failover.py complains about."""

from dataclasses import replace

import pytest

from benchmarks.failover import STREAMS, complaints
from sidecar.drill.record import Figures, Run, Violation
from sidecar.drill.samples import Kind, Mark, Outcome, Sample

_RUN = Run("crash", "crash", "", 1, "triton-0", "passed", marks=(Mark(10.0, "injected"),))


def _about(run: Run) -> list[str]:
    return list(complaints({"crash": [run]}, {}))


def _sample(kind: Kind, due: float, outcome: Outcome) -> Run:
    return replace(_RUN, samples=(Sample(kind, 0, due, 0.5, outcome, detail="why"),))


@pytest.mark.parametrize(
    ("kind", "due", "outcome", "complained"),
    [
        ("unary", 3.0, "answered", False),
        ("unary", 3.0, "failed", True),
        ("unary", 3.0, "wrong", True),
        ("unary", 12.0, "failed", True),
        ("stream", 3.0, "failed", True),
        ("stream", 12.0, "failed", False),  # its Triton was killed
    ],
)
def test_requests_may_not_fail_at_any_time_and_streams_not_before_the_fault(
    kind: Kind, due: float, outcome: Outcome, complained: bool
) -> None:
    expected = [f"through the mesh: crash: {kind} {outcome} after {due + 0.5:.1f} s: why"]
    assert _about(_sample(kind, due, outcome)) == (expected if complained else [])


def test_no_more_streams_are_cut_than_there_are_at_a_time() -> None:
    assert _about(replace(_RUN, figures=Figures(streams_cut=STREAMS))) == []
    [line] = _about(replace(_RUN, figures=Figures(streams_cut=STREAMS + 1)))
    assert (
        line == f"through the mesh: crash: {STREAMS + 1} streams were cut, of {STREAMS} at a time"
    )


def test_a_run_that_did_not_pass_is_named_with_its_violations() -> None:
    run = replace(_RUN, status="failed", violations=(Violation("rto", "at most 1 s", "never"),))
    assert _about(run) == [
        "through the mesh: crash: failed",
        "through the mesh: crash: rto: expected at most 1 s, found never",
    ]


def test_the_baseline_may_fail_and_has_to_end() -> None:
    failed = replace(_sample("unary", 12.0, "failed"), status="failed")
    aborted = replace(_RUN, status="aborted", reason="the load's process died")
    assert list(complaints({}, {"killed": [failed, aborted]})) == [
        "without the mesh: killed: aborted the load's process died"
    ]
