"""What Envoy's counters say about a period, and when they say nothing."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.traffic.guard import Observation
from sidecar.xds.envoys.counters import Counts, Latencies, Ring, Tally, read_counts, stats_filter

CUT = "http.triton.rq_reset_after_downstream_response_started"
SERVICES = ("triton", "vision.eu-1")


def page(**counters: object) -> bytes:
    """Envoy's JSON; `__` stands for a dot."""
    stats = [{"name": name.replace("__", "."), "value": value} for name, value in counters.items()]
    return json.dumps({"stats": [*stats, {"histograms": {}}]}).encode()


def test_the_counters_of_each_service_are_read() -> None:
    body = page(
        cluster__triton__grpc__success=7,
        cluster__triton__grpc__failure=2,
        http__triton__rq_reset_after_downstream_response_started=1,
    )
    # A cut stream is not reported; an Envoy that has counted nothing has no counter.
    assert read_counts(body, SERVICES) == {
        "triton": Tally(Counts(7, 2)),
        "triton~release": Tally(),
        "vision.eu-1": Tally(),
        "vision.eu-1~release": Tally(),
        CUT: Tally(Counts(cut=1)),
    }
    nothing = {"triton": Tally(), "triton~release": Tally(), CUT: Tally()}
    assert read_counts(b'{"stats": []}', ("triton",)) == nothing


def test_attempts_and_latencies_of_a_release_are_read() -> None:
    """As Envoy 1.40 writes it, with `histogram_buckets=detailed`."""
    counters = {
        "grpc.success": 5,
        "upstream_rq_retry": 3,
        "upstream_rq_retry_limit_exceeded": 1,
        "upstream_rq_retry_success": 2,
        "upstream_rq_rx_reset": 1,
        "upstream_rq_pending_failure_eject": 4,
    }
    stats: list[object] = [
        {"name": f"cluster.triton~release.{name}", "value": value}
        for name, value in counters.items()
    ]
    bins = [
        {"lower_bound": 9, "width": 0.1, "count": 3},
        {"lower_bound": 290, "width": 10, "count": 1},
    ]
    histogram = {"name": "cluster.triton~release.upstream_rq_time", "totals": bins}
    stats.append({"histograms": {"supported_percentiles": [99], "details": [histogram]}})
    read = read_counts(json.dumps({"stats": stats}).encode(), ("triton",))["triton~release"]
    assert read.counts == Counts(5, sent_again=2, resets=5, retries=4)
    assert read.latencies.seconds() == ((0.0091, 3), (0.3, 1))


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"{}", b'{"stats": 1}', b'{"stats": [1]}', b'{"stats": [{"value": 1}]}'),
        *(page(a="x"), b"\xff", b'{"stats": [{"histograms": 1}]}'),
        b'{"stats": [{"histograms": {"details": [{"name": "x", "totals": [1]}]}}]}',
        (
            b'{"stats": [{"histograms": {"details": [{"name": "x", "totals":'
            b' [{"lower_bound": 1e400, "width": 1, "count": 1}]}]}}]}'
        ),
    ],
)
def test_output_that_envoy_would_not_write_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="expected Envoy's statistics"):
        read_counts(body, SERVICES)


@pytest.mark.parametrize(
    ("name", "selected"),
    [
        ("cluster.triton.grpc.success", True),
        ("cluster.vision.eu-1.grpc.failure", True),
        (CUT, True),
        ("cluster.triton~release.grpc.success", True),
        ("cluster.triton~release.upstream_rq_time", True),
        ("cluster.triton~release.upstream_rq_retry_success", True),
        ("cluster.triton~release.upstream_rq_retry_backoff_exponential", False),
        ("cluster.triton.upstream_rq_time", False),
        ("cluster.visionxeu-1.grpc.failure", False),
        ("cluster.triton.grpc.total", False),
        ("cluster.triton-2.grpc.success", False),
    ],
)
def test_only_these_counters_are_requested(name: str, selected: bool) -> None:
    assert bool(re.search(stats_filter(SERVICES), name)) is selected


NONE = Counts()


def look(counts: Counts, released: Tally | Counts = NONE) -> dict[str, Tally]:
    """What one read of an Envoy gives; the cut streams are the listener's."""
    return {
        "triton": Tally(Counts(counts.succeeded, counts.failed)),
        "triton~release": released if isinstance(released, Tally) else Tally(released),
        CUT: Tally(Counts(cut=counts.cut)),
    }


def ring(*looks: tuple[float, dict[str, Tally]], kept: float = 900.0) -> Ring:
    filled = Ring(kept)
    for at, read in looks:
        filled.add(at, read)
    return filled


LOOKS = (
    (1.0, look(Counts(100, 5, 1))),
    (2.0, look(Counts(100, 5, 1), Counts(10, 1))),
    (3.0, look(Counts(110, 5, 3), Counts(20, 1))),
)


@pytest.mark.parametrize(
    ("start", "end", "counts"),
    [
        (1.0, 3.0, Counts(30, 1, 2)),
        (1.5, 3.0, Counts(30, 1, 2)),
        (2.5, 2.9, Counts(20, 0, 2)),
        (0.5, 3.0, None),  # it began before the first read
        (2.0, 3.1, None),  # its end has not been read
    ],
)
def test_a_period_is_counted_as_a_whole_or_not_at_all(
    start: float, end: float, counts: Counts | None
) -> None:
    assert ring(*LOOKS).between("triton", start, end) == counts
    assert ring(*LOOKS).between("other", start, end) is None
    assert ring().between("triton", start, end) is None


def test_an_envoy_that_was_restarted_counts_from_zero() -> None:
    restarted = ring(*LOOKS, (4.0, look(Counts(3, 7), Counts(1))), (5.0, look(Counts(4, 7))))
    assert restarted.between("triton", 3.0, 4.0) == Counts(5, 7)
    assert restarted.between("triton", 1.0, 5.0) == Counts(35, 8, 2)


def test_a_release_that_ends_removes_its_counters_and_loses_no_counts() -> None:
    ended = ring(*LOOKS, (4.0, look(Counts(120, 5, 3))), (5.0, look(Counts(120, 5, 3), Counts(2))))
    assert ended.between("triton", 3.0, 5.0) == Counts(12)


def test_old_reads_are_forgotten() -> None:
    short = ring(*((float(at), look(Counts(at))) for at in range(100)), kept=10.0)
    assert short.between("triton", 89.0, 99.0) == Counts(10)
    assert short.between("triton", 88.0, 99.0) is None


@given(st.lists(st.tuples(st.builds(Counts, *[st.integers(0, 9)] * 3), st.booleans())))
def test_restarts_of_envoy_lose_no_counts_that_were_read(
    added: list[tuple[Counts, bool]],
) -> None:
    total, own, filled = Counts(), Counts(5, 5, 5), Ring(900.0)
    filled.add(0.0, one(own))
    for at, (each, restarted) in enumerate(added, start=1):
        # A restart after which every counter is above its last value cannot be noticed.
        visible = each.since(own) is each
        own = each if restarted and visible else own.plus(each)
        total = total.plus(each)
        filled.add(float(at), one(own))
    assert filled.between("triton", 0.0, float(len(added))) == total


def one(counts: Counts) -> dict[str, Tally]:
    """All of it under one name."""
    return {"triton": Tally(counts), "triton~release": Tally(), CUT: Tally()}


def test_failures_are_failed_and_cut_requests() -> None:
    assert (Counts(7, 2, 1).requests, Counts(7, 2, 1).failures) == (10, 3)


def took(*bins: tuple[int, int]) -> Tally:
    """A release's latencies alone, in microseconds."""
    return Tally(latencies=Latencies(dict(bins)))


def counted(*released: Counts) -> Ring:
    """A read each second from 0 on."""
    return ring(*((float(at), look(Counts(), each)) for at, each in enumerate(released)))


def test_a_release_is_measured_within_the_window_and_not_before_it_was_ordered() -> None:
    filled = counted(*(Counts(10 * at, at) for at in range(11)))

    def seen(since: float, window: float) -> tuple[int, int, float]:
        found = filled.released("triton", since, window)
        return found.requests, found.failed, found.span

    assert seen(0.0, 3.0) == (33, 3, 3.0)
    assert seen(0.0, 2.5) == (33, 3, 3.0)  # from the read before it began
    assert seen(0.0, 0.1) == (11, 1, 1.0)
    assert seen(7.5, 30.0) == (22, 2, 2.0)  # from the read after it was ordered
    assert seen(10.0, 30.0) == (0, 0, 0.0)
    assert seen(11.0, 30.0) == (0, 0, 0.0)
    assert seen(-60.0, 300.0) == (110, 10, 10.0)  # as far as is known
    assert filled.released("other", 0.0, 3.0) == Observation(span=3.0)
    assert Ring(900.0).released("triton", 0.0, 3.0) == Observation()


def test_latencies_that_envoy_had_not_flushed_do_not_count_for_the_release() -> None:
    looks = [(float(at), look(Counts(), took((10_000, at)))) for at in range(11)]
    assert ring(*looks).released("triton", 0.0, 30.0).latencies == ((0.01, 5),)
    assert ring(*looks).released("triton", 0.0, 3.0).latencies == ((0.01, 3),)
    assert ring(*looks).released("triton", 6.0, 30.0).latencies == ()


@pytest.mark.parametrize(
    ("cut", "released", "failed"),
    [
        (3, Counts(10, resets=2), 2),  # the others are another cluster's
        (1, Counts(10, resets=2), 1),  # the other one was never retried
        (3, Counts(10, sent_again=2, resets=2, retries=2), 0),  # retried
        (3, Counts(10, 1, resets=4, retries=4), 1),  # retried until no attempt was left
        (3, Counts(10, sent_again=2, resets=2, retries=5), 0),  # retried for other reasons
        (0, Counts(10, 2, resets=2), 2),
    ],
)
def test_cut_streams_count_as_far_as_they_were_the_releases(
    cut: int, released: Counts, failed: int
) -> None:
    filled = ring((0.0, look(Counts())), (1.0, look(Counts(cut=cut), released)))
    seen = filled.released("triton", 0.0, 30.0)
    assert (seen.failed, seen.requests) == (failed, 10 + failed)


MEASURED = st.dictionaries(st.integers(1, 5), st.integers(0, 9)).map(Latencies)


@given(MEASURED, MEASURED)
def test_latencies_add_up(first: Latencies, second: Latencies) -> None:
    total = first.plus(second)
    assert dict(total.since(first).seconds()) == {
        key / 1_000_000: count for key, count in second.bins.items() if count
    }
    assert first.plus(Latencies()) == first
