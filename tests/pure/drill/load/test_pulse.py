"""For how long a load could not run."""

from collections.abc import Iterator

from sidecar.drill.load.pulse import Stall, overlapping

STALLS = (Stall(3.0, 5.0), Stall(1.0, 1.5))


def test_what_ended_before_does_not_count() -> None:
    assert overlapping(STALLS, 0.0) == 2.5
    assert overlapping(STALLS, 2.0) == 2.0
    assert overlapping(STALLS, 4.0) == 1.0
    assert overlapping(STALLS, 6.0) == 0.0


def test_older_stalls_than_a_request_cost_it_nothing() -> None:
    def newest_first() -> Iterator[Stall]:
        yield Stall(3.0, 5.0)
        yield Stall(1.0, 1.5)
        raise AssertionError("it has looked at all of them")

    assert overlapping(newest_first(), 2.0) == 2.0
