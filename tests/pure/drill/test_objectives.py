"""The file of `--slo`, and the error budget."""

import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.drill.objectives import Objectives, ObjectivesByScenario, budget_used, parse
from sidecar.runtime.errors import ConfigError

KNOWN = ("freeze", "crash")


def read(text: str) -> ObjectivesByScenario:
    return parse(text, "slo.toml", KNOWN)


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        read(text)
    return str(error.value).splitlines()


def test_an_empty_file_has_the_defaults() -> None:
    found = read("")
    assert found.general == found.of("freeze") == Objectives()


def test_a_scenario_overrides_the_general_ones() -> None:
    found = read('rto = 1\ndetection = "500ms"\n[scenario.freeze]\nrto = 2.5\n')
    assert found.of("crash") == Objectives(rto=1, detection=0.5)
    assert found.of("freeze") == Objectives(rto=2.5, detection=0.5)
    assert found.named()["rto"] == 1
    assert found.named()["freeze.rto"] == 2.5
    assert "freeze.detection" not in found.named()


@pytest.mark.wording
def test_every_mistake_is_told_at_once() -> None:
    time = 'a time above 0, such as 1.5 (seconds) or "500ms"'
    keys = "availability, detection, rto, longest_gap, wrong_window, recovered, memory_growth"
    assert mistakes(
        'rto = 0\navailability = 99.9\nspeed = 1\nrecovered = "soon"\n'
        '[scenario]\ncrash = 1\n[scenario.freeze]\nrto = true\nscenario = 1\n[scenario."a b"]\n'
    ) == [
        f"slo.toml: rto: expected {time}, found 0",
        "slo.toml: availability: expected a share from 0 to 1, such as 0.999, found 99.9",
        f"slo.toml: speed: unknown key; expected one of {keys}, scenario",
        f"slo.toml: recovered: expected {time}, found 'soon'",
        "slo.toml: scenario.crash: expected a table, found 1",
        f"slo.toml: scenario.freeze.rto: expected {time}, found true",
        f"slo.toml: scenario.freeze.scenario: unknown key; expected one of {keys}",
        "slo.toml: scenario.'a b': unknown scenario; `triton-sidecar drill list` lists all",
    ]


@pytest.mark.wording
def test_other_forms_are_refused() -> None:
    assert mistakes("scenario = 1") == ["slo.toml: scenario: expected a table, found 1"]
    [line] = mistakes("rto =")
    assert line.startswith("slo.toml: expected TOML, found a mistake: ")


@pytest.mark.parametrize("value", ["inf", "nan", "-1", "1" + 30 * "0", '"1h"', "[]", "{}"])
def test_a_time_is_above_zero_and_finite(value: str) -> None:
    assert len(mistakes(f"rto = {value}")) == 1


@given(st.text(max_size=40))
def test_any_text_is_objectives_or_a_mistake(text: str) -> None:
    with suppress(ConfigError):
        read(text)


def test_the_budget_is_what_availability_leaves() -> None:
    assert budget_used(1000, 0, Objectives()) == 0
    assert budget_used(1000, 1, Objectives()) == pytest.approx(1)
    assert budget_used(1000, 5, Objectives(availability=0.99)) == pytest.approx(0.5)
    assert budget_used(1000, 1, Objectives(availability=1)) == math.inf
    assert budget_used(0, 0, Objectives(availability=1)) == 0
