"""Faults of Consul in a cluster: its leader, a server, all servers, agents.

Acts: through what it imports or is given.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sidecar.drill.cluster.layout import same_host
from sidecar.drill.cluster.stage import ClusterStage
from sidecar.drill.stage.waiting import until


@asynccontextmanager
async def leader_killed(stage: ClusterStage, victim: str) -> AsyncIterator[None]:
    """The leading server is killed, and comes back when another one leads."""
    leader = await stage.leader()
    with stage.away(leader):
        await stage.other_leader(leader)
        yield


@asynccontextmanager
async def follower_killed(stage: ClusterStage, victim: str) -> AsyncIterator[None]:
    """A server that does not lead is killed, and restarted."""
    leader = await stage.leader()
    await _killed(next(server for server in stage.servers if server != leader), stage)
    yield


@asynccontextmanager
async def servers_gone(stage: ClusterStage, victim: str) -> AsyncIterator[None]:
    """All servers are killed, and stay away."""
    with stage.away(*stage.servers):
        yield


@asynccontextmanager
async def agent_killed(stage: ClusterStage, victim: str) -> AsyncIterator[None]:
    """The agent on the victim's host is killed, and restarted."""
    await _killed(same_host(victim, "agent"), stage)
    yield


@asynccontextmanager
async def agents_restarted(stage: ClusterStage, victim: str) -> AsyncIterator[None]:
    """All client agents are restarted at once."""
    before = {agent: stage.starts(agent) for agent in stage.agents}
    for agent in stage.agents:
        stage.restart(agent)
    await until(
        lambda: all(stage.starts(agent) > starts for agent, starts in before.items()),
        "restarts of all agents",
    )
    yield


@asynccontextmanager
async def control_plane_restarted_without_servers(
    stage: ClusterStage, victim: str
) -> AsyncIterator[None]:
    """The control plane is killed while all servers are gone, and starts from its file."""
    with stage.away(*stage.servers):
        await _killed("xds", stage)
        yield


async def _killed(part: str, stage: ClusterStage) -> None:
    before = stage.starts(part)
    stage.kill(part)
    await until(lambda: stage.starts(part) > before, f"a restart of {part}")
