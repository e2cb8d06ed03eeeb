"""What clients noticed, from samples alone."""

import pytest

from benchmarks.peers.figures import SLOW, Seen, seen
from benchmarks.peers.tables import ratio, summary
from sidecar.drill.samples import Outcome, Sample


def _steady(outcome: Outcome = "answered", start: int = 0, end: int = 40) -> list[Sample]:
    return [Sample("unary", 0, float(at), 0.01, outcome) for at in range(start, end)]


def test_nothing_is_noticed_of_a_fault_that_disturbs_no_request() -> None:
    found = seen(_steady(), 10.0, 30.0)
    assert (found.sent, found.failed, found.wrong, found.rto) == (20, 0, 0, 0.0)
    assert found.longest_gap == pytest.approx(1.0)


def test_rto_is_when_the_last_bad_request_was_sent() -> None:
    samples = [*_steady(end=12), *_steady("failed", 12, 15), *_steady("wrong", 15, 17)]
    found = seen([*samples, *_steady(start=17)], 10.0, 30.0)
    assert (found.failed, found.wrong, found.rto) == (3, 2, 6.0)
    assert found.longest_gap == pytest.approx(6.0)


def test_a_request_that_takes_long_delays_rto_although_it_is_answered() -> None:
    slow = Sample("unary", 1, 14.0, SLOW + 1, "answered")
    assert seen([*_steady(), slow], 10.0, 30.0).rto == 4.0


def test_a_design_has_not_recovered_if_requests_fail_until_the_fault_is_removed() -> None:
    found = seen([*_steady(end=20), *_steady("failed", 20, 30), *_steady(start=30)], 10.0, 30.0)
    assert found.rto is None


def test_requests_in_flight_at_the_injection_count() -> None:
    caught = Sample("unary", 1, 9.9, 5.0, "failed")
    found = seen([*_steady(), caught], 10.0, 30.0)
    assert (found.failed, found.rto) == (1, 0.0)


def test_what_was_sent_before_or_after_the_fault_does_not_count() -> None:
    outside = [*_steady("failed", 0, 5), *_steady("wrong", 35, 40)]
    found = seen([*outside, *_steady(start=5, end=35)], 10.0, 30.0)
    assert (found.failed, found.wrong) == (0, 0)


@pytest.mark.parametrize(
    ("ours", "theirs", "shown"),
    [
        (0, 10, "0.00"),
        (5, 10, "0.50"),
        (0, 0, "equal"),
        (3, 0, "theirs is 0"),
        (2.0, None, "0"),
        (None, 2.0, ""),
    ],
)
def test_a_ratio_is_of_ours_to_theirs(ours: float | None, theirs: float | None, shown: str) -> None:
    assert ratio(ours, theirs) == shown


def _seen(failed: int, rto: float | None) -> Seen:
    return Seen(100, failed, 0, 1.0, rto, 0.01, 0.01)


def test_a_summary_names_every_peer_that_is_better_than_ours() -> None:
    peers = {"a": _seen(2, 1.0), "b": _seen(5, 0.0), "c": _seen(5, 3.0), "d": _seen(9, None)}
    said = summary(_seen(5, 3.0), peers)
    assert said.startswith("Best peer: `a`, 2 failed or wrong, 1.0 s; ours 5, 3.0 s")
    assert said.endswith("Better than ours: `a`, `b`.")


def test_of_two_that_do_not_recover_the_one_with_faster_answers_is_better() -> None:
    ours, peer = (Seen(100, 0, 0, 1.0, None, p99, 0.01) for p99 in (19.0, 7.0))
    said = summary(ours, {"a": peer})
    assert "equal and ours did not recover." in said
    assert said.endswith("Better than ours: `a`.")
    assert "Better than ours" not in summary(peer, {"a": ours})


def test_among_peers_with_as_many_bad_requests_the_one_that_recovers_first_is_best() -> None:
    said = summary(_seen(0, 0.0), {"a": _seen(0, 6.0), "b": _seen(0, 0.2), "c": _seen(0, None)})
    assert said.startswith("Best peer: `b`")
    assert "Better than ours" not in said
