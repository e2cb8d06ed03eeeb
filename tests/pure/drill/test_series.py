"""Random series of scenarios."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hypothesis import given
from hypothesis import strategies as st

from sidecar.drill.scenario import Expectation, Scenario, Victim
from sidecar.drill.series import draw, for_a_moment, on_standby


@asynccontextmanager
async def nothing(stage: None, victim: str) -> AsyncIterator[None]:
    yield


def scenario(name: str, victim: Victim) -> Scenario[None]:
    expects = Expectation(moves_role=True, reasons=frozenset({"X"}), cuts_streams=True)
    return Scenario(name, name, "It holds.", nothing, victim=victim, expects=expects, lasts=60.0)


KNOWN = (scenario("own", "primary"), scenario("all", "mesh"))


@given(st.integers(), st.integers(0, 50))
def test_a_seed_determines_its_series(seed: int, count: int) -> None:
    drawn = draw(seed, count, KNOWN)
    assert len(drawn) == count
    assert draw(seed, count, KNOWN) == drawn
    # A longer one continues it.
    assert draw(seed, count + 1, KNOWN)[:count] == drawn


def test_a_long_series_has_every_variant() -> None:
    drawn = draw(1, 200, KNOWN)
    assert {(each.name, each.victim, each.lasts) for each in drawn} == {
        ("own", "primary", 60.0),
        ("own", "primary", 2.0),
        ("own", "standby", 60.0),
        ("own", "standby", 2.0),
        ("all", "mesh", 60.0),
        ("all", "mesh", 2.0),
    }


def test_on_a_standby_the_role_stays() -> None:
    found = on_standby(KNOWN[0])
    assert found.victim == "standby"
    assert found.expects == Expectation(False, frozenset({"X"}), cuts_streams=True)


def test_for_a_moment_nobody_has_to_notice() -> None:
    found = for_a_moment(KNOWN[0])
    assert found.lasts == 2.0
    assert found.expects == Expectation(None, frozenset(), cuts_streams=True)


def test_for_a_moment_the_role_stays_where_it_had_to() -> None:
    found = for_a_moment(on_standby(KNOWN[0]))
    assert found.expects.moves_role is False
