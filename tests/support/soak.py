"""What takes too long for each change: `make soak` runs all tests, and these in full."""

import os

import pytest

SOAK = bool(os.environ.get("SOAK"))
# Where only one room is tried, again and again while it is changed.
QUICK = bool(os.environ.get("QUICK"))

# Left to `make soak`: the rest of a family of which `make test` runs some.
soak = pytest.mark.soak


def times(usually: int, soaking: int) -> int:
    """How many examples, steps or rounds a test goes through."""
    if SOAK:
        return soaking
    return max(min(usually, 1), usually // 10) if QUICK else usually
