"""For how long a load could not run."""

from sidecar.drill.load.pulse import Stall, overlapping

STALLS = (Stall(1.0, 1.5), Stall(3.0, 5.0))


def test_what_ended_before_does_not_count() -> None:
    assert overlapping(STALLS, 0.0) == 2.5
    assert overlapping(STALLS, 2.0) == 2.0
    assert overlapping(STALLS, 4.0) == 1.0
    assert overlapping(STALLS, 6.0) == 0.0
