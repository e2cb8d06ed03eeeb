"""Random series of scenarios."""

from itertools import islice

import pytest

from sidecar.drill.scenarios.catalog import SCENARIOS, select
from sidecar.drill.series import draw, endless


def test_a_seed_always_gives_the_same_series() -> None:
    assert draw(7, 40, SCENARIOS) == draw(7, 40, SCENARIOS)
    assert draw(7, 40, SCENARIOS) != draw(8, 40, SCENARIOS)


def test_a_series_has_no_end_and_begins_as_a_shorter_one() -> None:
    assert tuple(islice(endless(7, SCENARIOS), 500))[:40] == draw(7, 40, SCENARIOS)


def test_all_scenarios_come_in_a_long_series() -> None:
    drawn = draw(7, 2000, SCENARIOS)
    assert {each.name for each in drawn} == {each.name for each in SCENARIOS}
    assert {each.victim for each in drawn} == {"primary", "standby", "mesh"}


@pytest.mark.parametrize("name", ["switchover", "crash-during-switchover"])
def test_a_switchover_is_always_the_primarys(name: str) -> None:
    drawn = draw(7, 200, select([name]))
    assert {each.victim for each in drawn} == {"primary"}


def test_on_a_standby_the_role_stays() -> None:
    drawn = draw(7, 200, select(["crash"]))
    assert {each.expects.moves_role for each in drawn if each.victim == "standby"} == {False}
