"""Token buckets."""

from hypothesis import given
from hypothesis import strategies as st

from sidecar.runtime.token_bucket import TokenBucket


def test_a_burst_passes_and_then_one_at_a_time() -> None:
    bucket = TokenBucket(rate=10.0, burst=2.0, level=2.0)
    for _ in range(2):
        assert bucket.pause(0.0) == 0.0
        bucket = bucket.take(0.0)
    assert bucket.pause(0.0) == 0.1
    assert bucket.pause(0.06) > 0.0
    assert bucket.pause(0.1) == 0.0


def test_a_bucket_does_not_overflow() -> None:
    bucket = TokenBucket(rate=10.0, burst=2.0, level=0.0)
    for _ in range(2):
        bucket = bucket.take(1000.0)
    assert bucket.pause(1000.0) > 0.0


@given(
    st.lists(st.floats(0.0, 0.2), min_size=1, max_size=200),
    st.floats(1.0, 1000.0),
    st.integers(1, 20),
)
def test_no_more_than_the_rate_and_a_burst_ever_pass(
    gaps: list[float], rate: float, burst: int
) -> None:
    bucket, now, passed = TokenBucket(rate, burst, burst, 0.0), 0.0, 0
    for gap in gaps:
        now += gap
        if bucket.pause(now) == 0.0:
            bucket = bucket.take(now)
            passed += 1
        assert passed <= burst + rate * now + 1e-6
