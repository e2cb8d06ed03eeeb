"""What takes too long for each change: `make soak` runs all tests, and these in full."""

import os

import pytest

SOAK = bool(os.environ.get("SOAK"))

# Left to `make soak`: the rest of a family of which `make test` runs some.
soak = pytest.mark.soak


def times(usually: int, soaking: int) -> int:
    """How many examples, steps or rounds a test goes through."""
    return soaking if SOAK else usually
