"""The `soak` marker and `times`: tests and repetitions that only `make test-soak` runs in full."""

import os

import pytest

SOAK = bool(os.environ.get("SOAK"))
# Set by `make test ROOM=…`, which is run repeatedly while a room is changed.
QUICK = bool(os.environ.get("QUICK"))

# Tests that only `make test-soak` runs, of a kind of which `make test` runs others.
soak = pytest.mark.soak


def times(usually: int, soaking: int) -> int:
    """The number of examples, steps or rounds of a test."""
    if SOAK:
        return soaking
    return max(min(usually, 1), usually // 10) if QUICK else usually


def pause(clients: int, every: float = 0.025) -> float:
    """Seconds that each of `clients` clients waits between an answer and its next request.

    Together they send a request every 25 ms, which is enough to notice any gap. At full speed they
    would find the same, and take the CPU that other tests' meshes need; `make test-soak` does so.
    """
    return 0.0 if SOAK else clients * every
