"""A live mesh as a stage, on a modelled Consul and a clock that is turned by hand."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sidecar.consul.api import Set
from sidecar.drill.live import scenarios, switchover
from sidecar.drill.live.precheck import DrillRefused
from sidecar.drill.live.running import DrillAborted
from sidecar.drill.live.stage import Entrance, LiveStage
from sidecar.drill.scenarios.catalog import select
from sidecar.election.keys import lock, orders
from sidecar.election.keys.orders import Pause
from sidecar.injection.rules import Code
from sidecar.operator import operator_client
from sidecar.registry.checks import WITHDRAWN
from sidecar.runtime.errors import Unavailable
from tests.support.drill_scene import SERVICE, ModelledScene, drill_scene, passing


def stage(scene: ModelledScene) -> LiveStage:
    return LiveStage(scene.operator(), Entrance("edge:8001", (), Path("load.log")))


async def test_a_steady_mesh_and_its_instances() -> None:
    async with drill_scene() as scene:
        live = stage(scene)
        await live.steady(1.0)
        assert await live.healthy() == {"a", "b"}
        assert (await live.primary(), await live.standby()) == ("a", "b")
        assert (await live.surroundings()).mesh.endswith(f"2 instances of {SERVICE}")
        assert live.offers == frozenset()


async def test_it_is_steady_again_when_the_last_instance_passes() -> None:
    async with drill_scene() as scene:
        await scene.set("b", "critical")
        waiting = asyncio.create_task(stage(scene).steady(60.0))
        await scene.clock.advance(5.0)
        assert not waiting.done()
        await scene.set("b", "passing")
        await scene.clock.advance(1.0)
        assert waiting.done()
        await waiting


async def test_what_does_not_become_steady_is_an_error_with_its_reason() -> None:
    async with drill_scene() as scene:
        await scene.set("b", "critical")
        waiting = asyncio.create_task(stage(scene).steady(5.0))
        await scene.clock.advance(6.0)
        with pytest.raises(Unavailable, match="b"):
            await waiting


async def test_a_pause_is_not_waited_for() -> None:
    async with drill_scene() as scene:
        pause = Pause(scene.clock.wall(), "joe@desk")
        await scene.consul.transact(Set(orders.pause_key(SERVICE), lock.dumps(pause)))
        with pytest.raises(DrillRefused) as refused:
            await stage(scene).steady(60.0)
        assert refused.value.code == Code.PAUSED


async def test_maintenance_that_begins_during_the_wait_ends_it() -> None:
    async with drill_scene() as scene:
        await scene.set("b", "critical")
        waiting = asyncio.create_task(stage(scene).steady(600.0))
        await scene.clock.advance(5.0)
        assert not waiting.done()
        await scene.consul.maintain_service("b", "a new kernel")
        await scene.clock.advance(1.0)
        assert waiting.done()
        with pytest.raises(DrillRefused) as refused:
            await waiting
        assert refused.value.code == Code.MAINTENANCE


async def withdraws(scene: ModelledScene) -> None:
    await scene.consul.maintain_service("b", WITHDRAWN)


async def deregisters(scene: ModelledScene) -> None:
    await scene.consul.deregister_service("b")


@pytest.mark.parametrize("stops", [withdraws, deregisters])
async def test_a_sidecar_that_is_restarted_is_waited_for(
    stops: Callable[[ModelledScene], Awaitable[None]],
) -> None:
    async with drill_scene() as scene:
        await stops(scene)
        waiting = asyncio.create_task(stage(scene).steady(60.0))
        await scene.clock.advance(5.0)
        assert not waiting.done()
        await scene.members["b"].die()
        await scene.consul.deregister_service("b")
        await scene.add("b")
        await scene.clock.advance(1.0)
        assert waiting.done()
        await waiting


async def test_a_switchover_needs_a_primary_that_permits_drills() -> None:
    async with drill_scene(a=frozenset()) as scene:
        client = scene.operator()
        with pytest.raises(DrillRefused) as refused:
            await switchover.switch_over(client, "switchover", "a")
        assert refused.value.code == Code.NOT_PERMITTED
        status = await operator_client.read_status(client)
        assert (status.drill, status.pending) == (None, None)
        assert (await operator_client.read_history(client, 20)).drills == ()


async def test_a_cancelled_switchover_withdraws_its_order_and_releases_the_lock() -> None:
    async with drill_scene() as scene:
        client = scene.operator()
        moving = asyncio.create_task(switchover.switch_over(client, "switchover", "a"))
        await scene.clock.advance(1.0)
        status = await operator_client.read_status(client)
        assert status.pending
        assert status.drill
        moving.cancel()
        await scene.clock.advance(1.0)
        with pytest.raises(asyncio.CancelledError):
            await moving
        status = await operator_client.read_status(client)
        assert (status.drill, status.pending) == (None, None)
        [entry] = (await operator_client.read_history(client, 20)).drills
        assert (entry.scenario, entry.fault, entry.outcome) == ("switchover", "", "aborted")
        assert (await scene.keys()).last is None


async def test_a_fault_that_ends_before_its_drill_is_an_error_with_its_code() -> None:
    async with drill_scene() as scene:
        [freeze] = scenarios.on_live_mesh(select(["freeze"]))

        async def work() -> None:
            async with freeze.inject(stage(scene), "a"):
                await scene.members["a"].injector.stop()

        working = asyncio.create_task(work())
        with pytest.raises(DrillAborted) as aborted:
            await passing(scene, working)
        assert aborted.value.code == Code.STOPPING
