"""All scenarios, by name. What each needs of the stage is in its `needs`."""

from collections.abc import Sequence
from typing import Any

from sidecar.drill.scenario import Scenario
from sidecar.drill.scenarios import (
    consul,
    hosts,
    load,
    machines,
    models,
    operations,
    pairs,
    processes,
)
from sidecar.runtime.errors import ConfigError

SCENARIOS: tuple[Scenario[Any], ...] = (
    *processes.SCENARIOS,
    *models.SCENARIOS,
    *operations.SCENARIOS,
    *consul.SCENARIOS,
    *hosts.SCENARIOS,
    *machines.SCENARIOS,
    *load.SCENARIOS,
    *pairs.SCENARIOS,
)


def select(names: Sequence[str]) -> tuple[Scenario[Any], ...]:
    """The scenarios of these names, in this order; a name given twice is run twice.

    Raises:
        ConfigError: names every one that does not exist.
    """
    known = {scenario.name: scenario for scenario in SCENARIOS}
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(
            "\n".join(
                f"{name}: no such scenario; `triton-sidecar drill list` shows them"
                for name in unknown
            )
        )
    return tuple(known[name] for name in names)
