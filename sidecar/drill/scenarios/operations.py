"""Scenarios of what operators do: planned changes, and mistakes."""

from sidecar.drill.injections import operations
from sidecar.drill.scenario import Expectation, Scenario
from sidecar.drill.stage.mesh import MeshStage

_UNHARMED = "No request fails and no stream is cut."

SCENARIOS: tuple[Scenario[MeshStage], ...] = (
    Scenario(
        "switchover",
        "planned switchover",
        f"The candidate proves itself, and the role moves. {_UNHARMED}",
        operations.switched_over,
        expects=Expectation(moves_role=True),
        lasts=0.0,
        live=True,
        only_primary=True,
    ),
    Scenario(
        "maintenance",
        "primary in maintenance mode",
        f"It hands its role over, and gets no new requests. {_UNHARMED}",
        operations.maintained,
        expects=Expectation(moves_role=True),
    ),
    Scenario(
        "rolling-restart",
        "every sidecar restarted, one after the other",
        f"Each hands over and drains before it ends. {_UNHARMED}",
        operations.restarted_one_by_one,
        victim="mesh",
        expects=Expectation(moves_role=True),
        lasts=0.0,
    ),
    Scenario(
        "bad-policy",
        "an unreadable traffic policy",
        f"The control plane keeps the last readable one, and says so. {_UNHARMED}",
        operations.bad_policy,
        victim="mesh",
        expects=Expectation(moves_role=False),
    ),
)
