"""Bytes for people."""

import pytest

from sidecar.runtime.amounts import in_bytes


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (12_345_678_901, "12.3 GB"),
        (2e18, "2000 PB"),
    ],
)
def test_a_unit_that_suits(size: float, text: str) -> None:
    assert in_bytes(size) == text
