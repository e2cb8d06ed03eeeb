"""When the requests of an open loop are due."""

from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.drill.load.schedule import due_times

SEEDS = st.integers(0, 2**64)


def test_constant_times_are_evenly_spaced() -> None:
    assert list(islice(due_times(4, "constant", 1), 5)) == [0, 0.25, 0.5, 0.75, 1]


@given(st.floats(0.1, 5000), SEEDS)
def test_the_same_seed_gives_the_same_times(rate: float, seed: int) -> None:
    first, second = (list(islice(due_times(rate, "poisson", seed), 50)) for _ in range(2))
    assert first == second
    assert all(before <= after for before, after in pairwise([0, *first]))


def test_another_seed_gives_other_times() -> None:
    found = {tuple(islice(due_times(10, "poisson", seed), 3)) for seed in range(20)}
    assert len(found) == 20


@pytest.mark.parametrize("rate", [1, 200])
def test_poisson_times_have_the_rate(rate: float) -> None:
    times = list(islice(due_times(rate, "poisson", 7), 20_000))
    assert len(times) / times[-1] == pytest.approx(rate, rel=0.03)
    steps = [after - before for before, after in pairwise(times)]
    # Of an exponential distribution, a share of 1 - 1/e is below the mean.
    assert sum(step < 1 / rate for step in steps) / len(steps) == pytest.approx(0.632, abs=0.01)


def test_they_stay_what_they_were() -> None:
    """A drill is repeated by its seed, also with another version of NumPy."""
    assert list(islice(due_times(1, "poisson", 1), 3)) == pytest.approx(TIMES)


TIMES = [0.6697791039015764, 0.7205844159761438, 2.6574185875638916]
