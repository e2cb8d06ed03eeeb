"""The `soak` marker and `times`: tests and repetitions that only `make soak` runs in full."""

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


def pause(clients: int) -> float:
    """Seconds that each of so many clients lets pass between an answer and its next question.

    Together they send a request each 10 ms, which meets any gap. At full speed they take most of
    a machine that other tests' meshes need, and find the same; `make soak` has them do so.
    """
    return 0.0 if SOAK else clients * 0.01
