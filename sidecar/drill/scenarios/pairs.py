"""Scenarios in which two faults meet.

Acts: through what it imports or is given.
"""

from typing import Any

from sidecar.drill.cluster.stage import ClusterStage
from sidecar.drill.injections import consul, hosts, machines, operations, processes
from sidecar.drill.injections.pairs import both
from sidecar.drill.scenario import Expectation, Need, Scenario
from sidecar.drill.stage.mesh import MeshStage

_SERVERS: frozenset[Need] = frozenset({"hosts", "servers"})
_HOSTS: frozenset[Need] = frozenset({"hosts"})
_FAILED_OVER = Expectation(moves_role=True, cuts_streams=True)

_ON_ANY_MESH: tuple[Scenario[MeshStage], ...] = (
    Scenario(
        "crash-during-switchover",
        "Triton of the primary killed during a switchover",
        "The switchover ends or fails, and either way one standby becomes primary. No request "
        "fails; streams of the killed Triton are cut.",
        both(operations.switchover_tried, processes.triton_killed, after=1.5),
        expects=_FAILED_OVER,
        only_primary=True,
    ),
    Scenario(
        "control-plane-killed-during-crash",
        "Triton killed, and the control plane with it",
        "Envoy has priorities and retries of its own, and needs nobody to leave the dead Triton. "
        "The new control plane names the new primary. No request fails.",
        both(processes.triton_killed, processes.control_plane_killed, after=0.1),
        expects=_FAILED_OVER,
    ),
)
_ON_A_CLUSTER: tuple[Scenario[ClusterStage], ...] = (
    Scenario(
        "crash-while-disk-full",
        "Triton killed while no sidecar can write to its disk",
        "Nothing that a failover needs is read from a disk. A standby becomes primary, and no "
        "request fails.",
        both(machines.disk_full, processes.triton_killed, after=2.0),
        needs=frozenset({"disk"}),
        expects=_FAILED_OVER,
    ),
    Scenario(
        "leader-change-during-crash",
        "Consul's leader and the primary's Triton killed at once",
        "Envoy retries on a standby, which becomes primary as soon as another server leads. No "
        "request fails.",
        both(consul.leader_killed, processes.triton_killed, after=0.2),
        needs=_SERVERS,
        expects=_FAILED_OVER,
    ),
    Scenario(
        "freeze-while-consul-gone",
        "Triton frozen while all Consul servers are gone",
        "No instance can become primary, but Envoy itself asks each sidecar for its verdict, and "
        "leaves the frozen Triton. No request fails.",
        both(consul.servers_gone, processes.triton_frozen, after=5.0),
        needs=_SERVERS,
        expects=Expectation(cuts_streams=True),
        lasts=15.0,
    ),
    Scenario(
        "partition-during-graceful-stop",
        "primary cut off from Consul while its sidecar stops",
        "The sidecar cannot hand over any more; its session lapses, and a standby becomes primary. "
        "Its Triton serves on until then. No request fails.",
        both(processes.stopped_gracefully, hosts.cut_off("consul"), after=0.5),
        needs=_HOSTS,
        expects=Expectation(moves_role=True),
    ),
)

SCENARIOS: tuple[Scenario[Any], ...] = (*_ON_ANY_MESH, *_ON_A_CLUSTER)
