"""The system's clock."""

from sidecar.runtime.clock import SystemClock


def test_jitter_stays_within_its_fraction() -> None:
    clock = SystemClock()
    assert all(9 <= clock.jitter(10, 0.1) <= 11 for _ in range(100))
