"""The scenarios that drills know."""

import re
from collections import Counter
from typing import Any

import pytest

from sidecar.drill.scenario import Scenario
from sidecar.drill.scenarios import catalog
from sidecar.drill.scenarios.catalog import SCENARIOS
from sidecar.injection.rules import Fault
from sidecar.runtime.errors import ConfigError

# What a live drill does without a fault at an instance.
ORDERS = {"switchover"}

every = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)


def test_names_and_titles_are_unique() -> None:
    for told in ("name", "title"):
        counted = Counter(getattr(scenario, told) for scenario in SCENARIOS)
        assert [each for each, count in counted.items() if count > 1] == []


@every
def test_a_scenario_says_what_it_expects(scenario: Scenario[Any]) -> None:
    assert re.fullmatch("[a-z]+(-[a-z]+)*", scenario.name)
    assert not scenario.title.endswith(".")
    assert scenario.hypothesis.endswith(".")
    assert scenario.needs
    assert scenario.lasts >= 0
    # A verdict is somebody's.
    assert scenario.victim != "mesh" or not scenario.expects.reasons


def test_every_fault_of_a_sidecar_is_a_live_scenario_and_the_other_way_round() -> None:
    live = {scenario.name for scenario in SCENARIOS if scenario.live}
    assert live - ORDERS == {fault.value for fault in Fault}


def test_scenarios_are_selected_by_name_in_their_order() -> None:
    chosen = catalog.select(["freeze", "crash", "freeze"])
    assert [scenario.name for scenario in chosen] == ["freeze", "crash", "freeze"]


def test_every_unknown_name_is_reported() -> None:
    with pytest.raises(ConfigError, match=r"(?s)^fire: .*\nflood: "):
        catalog.select(["fire", "crash", "flood"])
