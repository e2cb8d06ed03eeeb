"""A load as text on the command line."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.drill.load.spec import ClosedLoop, LoadSpec, OpenLoop, multiplied, parse
from sidecar.runtime.errors import ConfigError

CLOSED_KEYS = "clients, streams, pause"
OPEN_KEYS = "rate, streams, schedule, connections, in_flight"
COUNTS = st.integers(0, 1000)
LOADS: st.SearchStrategy[LoadSpec] = st.one_of(
    st.builds(
        ClosedLoop,
        clients=st.integers(1, 1000),
        streams=COUNTS,
        pause=st.integers(0, 60_000).map(lambda number: number / 1000),
    ),
    st.builds(
        OpenLoop,
        rate=st.integers(1, 50_000).map(lambda number: number / 10),
        streams=COUNTS,
        schedule=st.sampled_from(["poisson", "constant"]),
        connections=st.integers(1, 1000),
        in_flight=st.integers(1, 100_000),
    ),
)


@given(LOADS)
def test_every_load_is_the_text_that_it_gives(spec: LoadSpec) -> None:
    assert parse(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("clients=3", ClosedLoop(clients=3)),
        (" clients=1 , streams=0 ", ClosedLoop(clients=1, streams=0)),
        ("clients=2,pause=50ms", ClosedLoop(clients=2, pause=0.05)),
        ("pause=1.5s", ClosedLoop(pause=1.5)),
        ("pause=2", ClosedLoop(pause=2.0)),
        ("rate=200", OpenLoop(rate=200)),
        ("rate=0.5,schedule=constant", OpenLoop(rate=0.5, schedule="constant")),
        ("streams=0,rate=10,in_flight=5", OpenLoop(rate=10, streams=0, in_flight=5)),
    ],
)
def test_what_is_left_out_has_its_default(text: str, spec: LoadSpec) -> None:
    assert parse(text) == spec


@pytest.mark.wording
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected key=value, found ''"),
        ("200", "expected key=value, found '200'"),
        ("rate=fast", "rate: expected requests a second, above 0 and at most 5000, found 'fast'"),
        ("rate=0", "rate: expected requests a second, above 0 and at most 5000, found '0'"),
        ("rate=1,rate=2", "rate: expected once, found twice"),
        ("clients=-1", "clients: expected a count of clients, 0 to 1000, found '-1'"),
        ("clients=1001", "clients: expected a count of clients, 0 to 1000, found '1001'"),
        ("pause=1h", "pause: expected a time from 0 to 60 s, such as 50ms, found '1h'"),
        ("rate=1,schedule=often", "schedule: expected poisson or constant, found 'often'"),
        ("speed=1", "speed: unknown key; expected one of clients, streams, pause"),
        (
            "rate=1,pause=1s",
            f"pause: is of a closed loop, without rate; expected one of {OPEN_KEYS}",
        ),
        (
            "in_flight=1",
            f"in_flight: is of an open loop, which has a rate; expected one of {CLOSED_KEYS}",
        ),
        ("clients=0,streams=0", "expected at least one client, found clients=0,streams=0"),
    ],
)
def test_a_mistake_is_one_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(text)
    assert str(error.value) == f"--load: {said}"


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        parse("rate=x,streams=y,z=1")
    assert len(str(error.value).splitlines()) == 3


@given(st.text(max_size=30))
def test_any_text_is_a_load_or_a_mistake(text: str) -> None:
    with suppress(ConfigError):
        parse(text)


@given(LOADS, st.integers(1, 100))
def test_a_multiple_of_a_load_is_one_that_may_be_ordered(spec: LoadSpec, times: int) -> None:
    more = multiplied(spec, times)
    assert parse(str(more)) == more
    assert more.streams == 0


def test_a_multiple_has_so_many_times_the_unary_requests() -> None:
    assert multiplied(OpenLoop(50.0, 2, connections=8), 3) == OpenLoop(150.0, 0, connections=24)
    assert multiplied(ClosedLoop(4, 2, 0.5), 3) == ClosedLoop(12, 0, 0.5)
