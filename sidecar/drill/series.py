"""Random series of scenarios: the same for the same seed.

Acts: random.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from sidecar.drill.scenario import Scenario

_BLINK = 2.0  # seconds: too short for Consul to declare a node dead


def draw(seed: int, count: int, scenarios: Sequence[Scenario[Any]]) -> tuple[Scenario[Any], ...]:
    """The first `count` scenarios of `endless`."""
    return tuple(islice(endless(seed, scenarios), count))


def endless(seed: int, scenarios: Sequence[Scenario[Any]]) -> Iterator[Scenario[Any]]:
    """A series of scenarios without an end.

    Two of three that are about an instance are about the primary, the others about a standby, if
    the scenario makes sense there. One of three lasts only for a moment, in which the role need not
    move; where it must not, it still must not.
    """
    chance = random.Random(seed)  # noqa: S311 -- the same series for the same seed
    while True:
        found = chance.choice(scenarios)
        if found.victim == "primary" and chance.random() < 1 / 3 and not found.only_primary:
            found = on_standby(found)
        yield for_a_moment(found) if chance.random() < 1 / 3 else found


def on_standby(scenario: Scenario[Any]) -> Scenario[Any]:
    """The same fault on a standby, where the role has no reason to move."""
    expects = replace(scenario.expects, moves_role=False)
    return replace(scenario, victim="standby", expects=expects)


def for_a_moment(scenario: Scenario[Any]) -> Scenario[Any]:
    """The same fault, removed before anybody must have noticed it."""
    may_move = None if scenario.expects.moves_role else scenario.expects.moves_role
    expects = replace(scenario.expects, moves_role=may_move, reasons=frozenset())
    return replace(scenario, lasts=min(scenario.lasts, _BLINK), expects=expects)
