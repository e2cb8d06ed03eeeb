"""When the requests of an open loop are due. Pure: the same seed gives the same times."""

import math
from collections.abc import Iterator

import numpy as np

from sidecar.drill.load.spec import ScheduleKind

_DRAWN = 1024  # numbers at once


def due_times(rate: float, kind: ScheduleKind, seed: int) -> Iterator[float]:
    """The seconds from the start at which requests are due, without end, never decreasing.

    Args:
        rate: requests a second, on average.
        kind: `constant` has a request every 1 / rate seconds. `poisson` draws independent times
            between requests, as many users together have them.
        seed: determines the times of `poisson`; not negative.
    """
    if kind == "constant":
        number = 0
        while True:
            yield number / rate
            number += 1
    # Uniform numbers, which NumPy promises to keep for a seed, as it does not for distributions.
    bits = np.random.PCG64(seed)
    due = 0.0
    while True:
        for word in bits.random_raw(_DRAWN).tolist():
            due -= math.log((word + 1) / 2**64) / rate
            yield due
