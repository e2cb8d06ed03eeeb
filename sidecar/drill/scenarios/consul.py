"""Scenarios of Consul: its leader, its servers, its agents."""

from sidecar.drill.cluster.stage import ClusterStage
from sidecar.drill.injections import consul, hosts
from sidecar.drill.scenario import Expectation, Need, Scenario

_NEEDS: frozenset[Need] = frozenset({"hosts", "servers"})
_UNHARMED = "No request fails and no stream is cut."

SCENARIOS: tuple[Scenario[ClusterStage], ...] = (
    Scenario(
        "consul-leader-killed",
        "Consul's leader killed",
        f"Another server leads within seconds; sessions survive. {_UNHARMED}",
        consul.leader_killed,
        victim="mesh",
        needs=_NEEDS,
    ),
    Scenario(
        "consul-follower-killed",
        "another Consul server killed",
        f"A majority is left, so nothing changes. {_UNHARMED}",
        consul.follower_killed,
        victim="mesh",
        needs=_NEEDS,
        expects=Expectation(moves_role=False),
    ),
    Scenario(
        "consul-gone",
        "all Consul servers gone for a minute",
        "Nobody is primary any more, and Envoy keeps what it has: requests go on to the same "
        f"instances. {_UNHARMED}",
        consul.servers_gone,
        victim="mesh",
        needs=_NEEDS,
        lasts=60.0,
    ),
    Scenario(
        "agent-killed",
        "Consul's agent on the primary's host killed",
        f"The sidecar waits for the agent and registers again; its Triton serves on. {_UNHARMED}",
        consul.agent_killed,
        needs=_NEEDS,
    ),
    Scenario(
        "agents-restarted",
        "all Consul agents restarted at once",
        f"Every check is critical for a moment, which proves nothing. {_UNHARMED}",
        consul.agents_restarted,
        victim="mesh",
        needs=_NEEDS,
    ),
    Scenario(
        "control-plane-without-consul",
        "control plane restarted while Consul is gone",
        f"It starts from the catalog that it saved, and Envoy sees no change. {_UNHARMED}",
        consul.control_plane_restarted_without_servers,
        victim="mesh",
        needs=_NEEDS,
        lasts=10.0,
    ),
    Scenario(
        "cut-from-consul",
        "primary cut off from Consul",
        "Its session lapses; it steps down by its own clock, and a standby becomes primary. Envoy "
        f"still reaches it. {_UNHARMED}",
        hosts.cut_off("consul"),
        needs=_NEEDS,
        expects=Expectation(moves_role=True),
    ),
)
