"""Scenarios of load: too much of it, and a request that kills.

Acts: through what it imports or is given.
"""

from sidecar.drill.injections import load
from sidecar.drill.scenario import Expectation, Need, Scenario
from sidecar.drill.stage.mesh import MeshStage

_MORTAL: frozenset[Need] = frozenset({"processes", "mortal"})

SCENARIOS: tuple[Scenario[MeshStage], ...] = (
    Scenario(
        "overload",
        "three times the load on top of it",
        "Requests wait for their turn. The verdict may warn, but no instance is declared unhealthy "
        "for being busy. No request fails, and none of the further ones.",
        load.overload(times=3),
        victim="mesh",
        expects=Expectation(moves_role=False, stays_healthy=True),
        lasts=10.0,
    ),
    Scenario(
        "query-of-death",
        "a client repeats a request that kills its Triton",
        "The control plane notices the pattern and quarantines the request after its second "
        "victim. At most two instances go down, and no request of others fails.",
        load.query_of_death,
        victim="mesh",
        needs=_MORTAL,
        expects=Expectation(cuts_streams=True),
        lasts=10.0,
    ),
)
