"""Prints the scenarios of drills."""

import json
from collections.abc import Sequence
from typing import Any

from sidecar.drill.scenario import Scenario
from sidecar.runtime.terminal import Column, Grid, show

_LIST = (
    Column("scenario"),
    Column("what is done", folds=True),
    Column("to", worth=3),
    Column("needs", worth=1),
    Column("live", worth=2),
)


def scenarios(found: Sequence[Scenario[Any]], as_json: bool, wide: bool) -> None:
    """The answer of `drill list`."""
    if as_json:
        print(json.dumps([_fields(each) for each in found], indent=2))
        return
    grid = Grid(_LIST)
    for each in found:
        needs, live = ", ".join(sorted(each.needs)), "yes" if each.live else ""
        grid.add(each.name, each.title, each.victim, needs, live)
    show(grid, wide)


def _fields(scenario: Scenario[Any]) -> dict[str, object]:
    return {
        "name": scenario.name,
        "title": scenario.title,
        "hypothesis": scenario.hypothesis,
        "victim": scenario.victim,
        "needs": sorted(scenario.needs),
        "live": scenario.live,
    }
