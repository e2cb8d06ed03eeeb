"""What Envoy's counters say about a span, and when they say nothing."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.xds.counters import Counts, Ring, read_counts, stats_filter

CUT = "http.triton.rq_reset_after_downstream_response_started"
SERVICES = ("triton", "vision.eu-1")


def page(**counters: object) -> bytes:
    """Envoy's JSON; `__` stands for a dot."""
    stats = [{"name": name.replace("__", "."), "value": value} for name, value in counters.items()]
    return json.dumps({"stats": [*stats, {"histograms": {}}]}).encode()


def test_the_counters_of_each_service_are_read() -> None:
    told = page(
        cluster__triton__grpc__success=7,
        cluster__triton__grpc__failure=2,
        http__triton__rq_reset_after_downstream_response_started=1,
    )
    # Who was cut is not told; who has counted nothing has no counter.
    assert read_counts(told, SERVICES) == {
        "triton": Counts(7, 2, 1),
        "vision.eu-1": Counts(0, 0, 1),
    }
    assert read_counts(b'{"stats": []}', ("triton",)) == {"triton": Counts()}


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"stats": 1}', b'{"stats": [{"value": 1}]}', page(a="x"), b"\xff"]
)
def test_what_envoy_would_not_say_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="expected Envoy's statistics"):
        read_counts(body, SERVICES)


@pytest.mark.parametrize(
    ("name", "selected"),
    [
        ("cluster.triton.grpc.success", True),
        ("cluster.vision.eu-1.grpc.failure", True),
        (CUT, True),
        ("cluster.visionxeu-1.grpc.failure", False),
        ("cluster.triton.grpc.total", False),
        ("cluster.triton-2.grpc.success", False),
    ],
)
def test_only_these_counters_are_asked_for(name: str, selected: bool) -> None:
    assert bool(re.search(stats_filter(SERVICES), name)) is selected


def ring(*looks: tuple[float, Counts], kept: float = 900.0) -> Ring:
    filled = Ring(kept)
    for at, counts in looks:
        filled.add(at, {"triton": counts})
    return filled


LOOKS = ((1.0, Counts(100, 5, 1)), (2.0, Counts(110, 6, 1)), (3.0, Counts(130, 6, 3)))


@pytest.mark.parametrize(
    ("start", "end", "counts"),
    [
        (1.0, 3.0, Counts(30, 1, 2)),
        (1.5, 3.0, Counts(30, 1, 2)),
        (2.5, 2.9, Counts(20, 0, 2)),
        (0.5, 3.0, None),  # it began before anybody looked
        (2.0, 3.1, None),  # its end has not been looked at
    ],
)
def test_a_span_is_counted_as_a_whole_or_not_at_all(
    start: float, end: float, counts: Counts | None
) -> None:
    assert ring(*LOOKS).between("triton", start, end) == counts
    assert ring(*LOOKS).between("other", start, end) is None
    assert ring().between("triton", start, end) is None


def test_an_envoy_that_was_restarted_counts_from_zero() -> None:
    restarted = ring(*LOOKS, (4.0, Counts(3, 7, 0)), (5.0, Counts(4, 7, 0)))
    assert restarted.between("triton", 3.0, 5.0) == Counts(4, 7, 0)
    assert restarted.between("triton", 1.0, 5.0) == Counts(34, 8, 2)


def test_what_is_old_is_forgotten() -> None:
    short = ring(*((float(at), Counts(at)) for at in range(100)), kept=10.0)
    assert short.between("triton", 89.0, 99.0) == Counts(10)
    assert short.between("triton", 88.0, 99.0) is None


@given(st.lists(st.tuples(st.builds(Counts, *[st.integers(0, 9)] * 3), st.booleans())))
def test_restarts_of_envoy_lose_nothing_that_was_looked_at(
    added: list[tuple[Counts, bool]],
) -> None:
    total, own, filled = Counts(), Counts(5, 5, 5), Ring(900.0)
    filled.add(0.0, {"triton": own})
    for at, (each, restarted) in enumerate(added, start=1):
        # One after which every counter is above what it was cannot be seen.
        visible = each.since(own) is each
        own = each if restarted and visible else own.plus(each)
        total = total.plus(each)
        filled.add(float(at), {"triton": own})
    assert filled.between("triton", 0.0, float(len(added))) == total


def test_failures_are_the_failed_and_the_cut() -> None:
    assert (Counts(7, 2, 1).requests, Counts(7, 2, 1).failures) == (10, 3)
