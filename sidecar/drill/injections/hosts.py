"""Faults of hosts and networks in a cluster: cut off, impaired, lost, killed part by part.

Acts: asyncio.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from sidecar.drill.cluster.layout import same_host
from sidecar.drill.cluster.stage import ClusterStage, Cut
from sidecar.drill.scenario import Injection
from sidecar.drill.stage.waiting import until

_GAP = 0.3  # seconds between kills in a row: shorter than until a restart
_PARTS = ("sidecar", "agent", "triton")


def cut_off(network: Cut) -> Injection[ClusterStage]:
    """The victim's host loses every packet to and from a network: `consul`, `data` or both."""

    @asynccontextmanager
    async def cut(stage: ClusterStage, victim: str) -> AsyncIterator[None]:
        host = same_host(victim, "host")
        try:
            stage.cut(host, network)
            yield
        finally:
            stage.join(host, network)

    return cut


def impaired(network: Cut, *, loss: float = 0.0, delay: float = 0.0) -> Injection[ClusterStage]:
    """The victim's host loses a share of packets each way, and delays each by so many seconds."""

    @asynccontextmanager
    async def impair(stage: ClusterStage, victim: str) -> AsyncIterator[None]:
        async with AsyncExitStack() as impairing:
            for each in stage.networks(network):
                context = stage.impaired(same_host(victim, "host"), each, loss=loss, delay=delay)
                await impairing.enter_async_context(context)
            yield

    return impair


def deaf(network: Cut) -> Injection[ClusterStage]:
    """A one-way partition: the victim's host sends, and receives nothing."""

    @asynccontextmanager
    async def one_way(stage: ClusterStage, victim: str) -> AsyncIterator[None]:
        async with AsyncExitStack() as impairing:
            for each in stage.networks(network):
                context = stage.impaired(same_host(victim, "host"), each, loss_in=1.0)
                await impairing.enter_async_context(context)
            yield

    return one_way


def killed(*kinds: str) -> Injection[ClusterStage]:
    """SIGKILL to parts of the victim's host in a row: `sidecar`, `agent`, `triton`."""

    @asynccontextmanager
    async def kill(stage: ClusterStage, victim: str) -> AsyncIterator[None]:
        starts = {part: stage.starts(part) for part in (same_host(victim, kind) for kind in kinds)}
        for part in starts:
            stage.kill(part)
            await asyncio.sleep(_GAP)
        await until(
            lambda: all(stage.starts(part) > before for part, before in starts.items()),
            f"restarts of {', '.join(starts)}",
        )
        yield

    return kill


@asynccontextmanager
async def lost(stage: ClusterStage, victim: str) -> AsyncIterator[None]:
    """The host loses power: both networks at once, and all its processes."""
    host = same_host(victim, "host")
    try:
        stage.cut(host, "both")
        with stage.away(*(same_host(victim, kind) for kind in _PARTS)):
            yield
    finally:
        stage.join(host, "both")
