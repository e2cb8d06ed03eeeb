"""What a control plane makes of an agent that streams, with its servers and without."""

import asyncio
from pathlib import Path

import pytest

from tests.support.xds.control_plane_rig import Calm, registration
from tests.support.xds.waiting import eventually

pytestmark = pytest.mark.integration


async def test_servers_are_gone_and_newcomers_come_before_and_after(tmp_path: Path) -> None:
    async with Calm.running(tmp_path, {"mode": "active-active"}, streamed=True) as calm:
        async with calm.under_load() as load:
            await calm.join(calm.consul, "c")
            await eventually(lambda: calm.has_healthy(3), "a newcomer")
            await load.more(50, by="c")
            assert not await calm.plane.status()
            await asyncio.to_thread(calm.agent.stop)
            await eventually(lambda: _says(calm, "No known Consul servers"), "what is wrong")
            assert "s old; " in await calm.plane.status()
            await _sick_and_well_again(calm)
            await load.more(50, by="a")
            # They have forgotten everything, and the agent shows nobody.
            await asyncio.to_thread(calm.agent.start)
            await eventually(lambda: _says(calm, ""), "the servers are followed again")
            await eventually(lambda: _held(calm, 3), "all three are held")
            await calm.join(calm.consul, "d")
            await eventually(lambda: calm.has_healthy(4), "a newcomer")
            for name in "abc":
                await calm.consul.register_service(registration(calm.tritons[name]))
                await calm.consul.update_check(f"{name}:verdict", "passing", "fine")
            await eventually(lambda: _held(calm, 0), "all are seen again")
            await load.more(50, by="d")
        assert load.failures == []


async def _sick_and_well_again(calm: Calm) -> None:
    calm.tritons["a"].serving = False
    await eventually(lambda: calm.has_healthy(2), "Envoy's own check notices")
    calm.tritons["a"].serving = True
    await eventually(lambda: calm.has_healthy(3), "a is well again")


async def _says(calm: Calm, what: str) -> bool:
    said = await calm.plane.status()
    return what in said if what else not said


async def _held(calm: Calm, count: int) -> bool:
    return await calm.plane.metric("held_evictions") == count
