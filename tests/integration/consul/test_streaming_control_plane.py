"""A control plane on an agent that streams, with and without its Consul servers."""

import asyncio
from pathlib import Path

import pytest

from tests.support.xds.control_plane_rig import ControlPlaneRig, registration
from tests.support.xds.waiting import eventually

pytestmark = pytest.mark.integration


async def test_no_request_fails_while_the_servers_are_away_and_return_without_data(
    tmp_path: Path,
) -> None:
    async with ControlPlaneRig.running(tmp_path, {"mode": "active-active"}, streamed=True) as calm:
        async with calm.under_load() as load:
            await calm.join(calm.consul, "c")
            await eventually(lambda: calm.has_healthy(3), "a newcomer")
            await load.more(50, by="c")
            assert not await calm.plane.status()
            await asyncio.to_thread(calm.agent.stop)
            await eventually(
                lambda: _status_has(calm, "No known Consul servers"), "the status says why"
            )
            assert "s old; " in await calm.plane.status()
            await _fail_and_recover(calm)
            await load.more(50, by="a")
            # The servers have lost all data, and the agent shows no instances.
            await asyncio.to_thread(calm.agent.start)
            await eventually(lambda: _status_has(calm, ""), "the servers are followed again")
            await eventually(lambda: _retains(calm, 3), "all three are retained")
            await calm.join(calm.consul, "d")
            await eventually(lambda: calm.has_healthy(4), "a newcomer")
            for name in "abc":
                await calm.consul.register_service(registration(calm.tritons[name]))
                await calm.consul.update_check(f"{name}:verdict", "passing", "fine")
            await eventually(lambda: _retains(calm, 0), "all are seen again")
            await load.more(50, by="d")
        assert load.failures == []


async def _fail_and_recover(calm: ControlPlaneRig) -> None:
    calm.tritons["a"].serving = False
    await eventually(lambda: calm.has_healthy(2), "Envoy's own check notices")
    calm.tritons["a"].serving = True
    await eventually(lambda: calm.has_healthy(3), "a is healthy again")


async def _status_has(calm: ControlPlaneRig, text: str) -> bool:
    said = await calm.plane.status()
    return text in said if text else not said


async def _retains(calm: ControlPlaneRig, count: int) -> bool:
    return await calm.plane.metric("held_evictions") == count
