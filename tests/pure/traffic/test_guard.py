"""The guard: when a release is rolled back automatically, and what the rollback changes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.traffic.guard import Observation, Rollback, judge, merged
from sidecar.traffic.policy import DEFAULTS, Guard, Release, TrafficPolicy
from sidecar.xds.catalog.catalog import Catalog, ServiceCatalog
from sidecar.xds.config.endpoints import share
from sidecar.xds.releases.rollbacks import with_rollbacks

ERRORS = Guard(max_error_percent=5.0)
SLOW = Guard(max_latency=0.3)
# 1,204 requests in half a minute.
USUAL = Observation(1204, 20, 40, ((0.01, 1193), (0.3, 11)), 30.0)


@pytest.mark.parametrize(
    ("guard", "changes", "why"),
    [
        (ERRORS, {}, None),
        (
            ERRORS,
            {"failed": 108},
            (
                "148 of 1,204 requests (12.3 %) failed or were sent again within 30 s; "
                "the guard allows 5 %"
            ),
        ),
        # As many failures as are allowed.
        (ERRORS, {"requests": 1200}, None),
        (
            ERRORS,
            {"requests": 1199},
            (
                "60 of 1,199 requests (5 %) failed or were sent again within 30 s; "
                "the guard allows 5 %"
            ),
        ),
        (ERRORS, {"requests": 99, "failed": 99}, None),
        (
            ERRORS,
            {"requests": 100, "failed": 100, "span": 4.2},
            (
                "100 of 100 requests (100 %) failed or were sent again within 4 s; "
                "the guard allows 5 %"
            ),
        ),
        (
            Guard(max_error_percent=0.0, min_requests=1),
            {"requests": 2000, "failed": 1, "sent_again": 0},
            (
                "1 of 2,000 requests (0.05 %) failed or were sent again within 30 s; "
                "the guard allows 0 %"
            ),
        ),
        (Guard(max_error_percent=100.0, min_requests=1), {"failed": 1204}, None),
        (SLOW, {"failed": 1204}, None),
        (SLOW, {}, None),
        (
            SLOW,
            {"latencies": ((0.01, 1189), (0.31, 15))},
            (
                "the 99th percentile of 1,204 requests within 30 s was up to 310 ms; "
                "the guard allows 300 ms"
            ),
        ),
        (SLOW, {"latencies": ((0.01, 99), (2.5, 1))}, None),
        (
            SLOW,
            {"latencies": ((0.01, 98), (2.5, 2))},
            (
                "the 99th percentile of 100 requests within 30 s was up to 2.5 s; "
                "the guard allows 300 ms"
            ),
        ),
        (SLOW, {"latencies": ((2.5, 99),)}, None),
        (SLOW, {"latencies": ()}, None),
        (Guard(), {"failed": 1204, "latencies": ((9.0, 1204),)}, None),
        (Guard(max_error_percent=5.0, max_latency=0.3, min_requests=0), {"requests": 0}, None),
        (Guard(max_latency=0.3, min_requests=0), {"latencies": ()}, None),
    ],
)
def test_exceeded_limits(guard: Guard, changes: dict[str, object], why: str | None) -> None:
    assert judge(guard, replace(USUAL, **changes)) == why  # type: ignore[arg-type]


COUNT = st.integers(0, 500)
BINS = st.lists(st.tuples(st.sampled_from((0.01, 0.1, 1.0)), COUNT), unique_by=lambda b: b[0])
OBSERVATIONS = st.builds(
    Observation, COUNT, COUNT, COUNT, BINS.map(lambda bins: tuple(sorted(bins))), st.just(30.0)
)
LIMIT = st.one_of(st.none(), st.floats(0, 100))
GUARDS = st.builds(Guard, LIMIT, LIMIT, st.integers(1, 200))


@given(GUARDS, OBSERVATIONS, COUNT)
def test_more_failures_never_prevent_a_rollback(guard: Guard, seen: Observation, more: int) -> None:
    if judge(guard, seen):
        assert judge(guard, replace(seen, failed=seen.failed + more))
        assert judge(guard, replace(seen, sent_again=seen.sent_again + more))


@given(GUARDS, OBSERVATIONS)
def test_too_few_requests_never_cause_a_rollback(guard: Guard, seen: Observation) -> None:
    if max(seen.requests, seen.measured) < guard.min_requests:
        assert judge(guard, seen) is None


@given(GUARDS, OBSERVATIONS)
def test_a_release_cannot_exceed_100_percent_failures(guard: Guard, seen: Observation) -> None:
    assert seen.bad <= seen.requests
    assert judge(replace(guard, max_error_percent=100.0, max_latency=None), seen) is None


@given(GUARDS, OBSERVATIONS)
def test_slower_answers_never_prevent_a_rollback(guard: Guard, seen: Observation) -> None:
    slower = replace(seen, latencies=tuple((10 * end, count) for end, count in seen.latencies))
    assert not judge(guard, seen) or judge(guard, slower)


@given(OBSERVATIONS.filter(lambda seen: seen.measured))
def test_the_99th_percentile_covers_99_of_100_requests(seen: Observation) -> None:
    within = sum(count for end, count in seen.latencies if end <= seen.p99)
    below = sum(count for end, count in seen.latencies if end < seen.p99)
    assert within * 100 >= seen.measured * 99 > below * 100 or below == 0


@given(st.lists(OBSERVATIONS, min_size=1, max_size=3))
def test_observations_of_several_envoys_are_merged(seen: list[Observation]) -> None:
    total = merged(seen)
    assert total.requests == sum(each.requests for each in seen)
    assert total.measured == sum(each.measured for each in seen)
    assert total.span == 30.0
    assert merged(seen[:1]) == replace(seen[0], latencies=merged(seen[:1]).latencies)
    assert merged([]) == Observation()


RELEASE = Release(tag="v2", percent=20, guard=ERRORS)


def catalog(release: Release | None) -> Catalog:
    policy = TrafficPolicy(release=release, weights=(("a", 1),))
    return Catalog((ServiceCatalog("one"), ServiceCatalog("two", policy=policy)), zone="z")


def test_a_release_that_was_rolled_back_gets_no_requests() -> None:
    rolled_back = with_rollbacks(catalog(RELEASE), {"two": Rollback(RELEASE, "too bad")})
    one, two = rolled_back.services
    assert one == ServiceCatalog("one")
    assert two.policy == catalog(replace(RELEASE, rolled_back="too bad")).services[1].policy
    assert share(two.policy) == 0
    assert rolled_back.zone == "z"


@pytest.mark.parametrize(
    "release", [None, replace(RELEASE, percent=10), replace(RELEASE, rolled_back="by root@vm")]
)
def test_a_rollback_applies_to_the_release_as_it_was_ordered(release: Release | None) -> None:
    rollbacks = {"two": Rollback(RELEASE, "too bad"), "gone": Rollback(RELEASE, "too bad")}
    assert with_rollbacks(catalog(release), rollbacks) == catalog(release)
    assert with_rollbacks(catalog(RELEASE), {}) == catalog(RELEASE)


def test_a_rollback_keeps_the_rest_of_a_policy() -> None:
    policy = replace(DEFAULTS, release=RELEASE, weights=(("a", 1),))
    over = Rollback(RELEASE, "too bad").apply_to(policy)
    assert replace(over, release=RELEASE) == policy
