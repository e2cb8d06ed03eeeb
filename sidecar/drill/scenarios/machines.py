"""Scenarios of the machines that sidecars and control planes run on: their disk, their clock."""

from sidecar.drill.cluster.stage import ClusterStage
from sidecar.drill.injections import machines
from sidecar.drill.scenario import Expectation, Scenario

_UNHARMED = "No request fails and no stream is cut."

SCENARIOS: tuple[Scenario[ClusterStage], ...] = (
    Scenario(
        "disk-full",
        "the disk of every sidecar and control plane full",
        "What they keep on disk is only for their next start, and a log line that is lost is no "
        f"reason to stop. {_UNHARMED}",
        machines.disk_full,
        victim="mesh",
        needs=frozenset({"disk"}),
        expects=Expectation(moves_role=False),
        lasts=20.0,
    ),
    Scenario(
        "clock-jump",
        "wall clock an hour ahead, and back",
        "The primary's sidecar and the control plane decide by the monotonic clock, so that only "
        f"timestamps change. {_UNHARMED}",
        machines.clocks_jumped,
        needs=frozenset({"clock"}),
        expects=Expectation(moves_role=False),
        lasts=20.0,
    ),
)
