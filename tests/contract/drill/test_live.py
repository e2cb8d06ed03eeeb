"""A live drill on a real Consul, whatever its version, and on both generations of the model."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

import pytest

from sidecar.consul.api import ConsulApi, Delete
from sidecar.drill.live import drill_lock, live
from sidecar.drill.live.precheck import DrillRefused
from sidecar.injection.keys import Order
from sidecar.injection.rules import Code, Fault
from sidecar.operator import operator_client
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.errors import Conflict
from tests.support.drill_scene import SERVICE, DrillScene, staged

pytestmark = pytest.mark.contract


@pytest.fixture
async def scene(consul: ConsulApi) -> AsyncIterator[DrillScene]:
    """Two instances; nothing of them stays in a Consul that others use."""
    made = DrillScene(consul, SystemClock())
    async with staged(made):
        await until(lambda: shown(made), "both instances pass in the catalog")
        yield made
    for name in made.members:
        await consul.deregister_service(name)
    for entry in (await consul.kv_prefix(f"triton-sidecar/{SERVICE}/")).value:
        if entry.session:
            await consul.session_destroy(entry.session)
        with suppress(Conflict):
            newest = (await consul.kv(entry.key)).value
            await consul.transact(Delete(entry.key, newest.modify_index if newest else 0))


async def shown(scene: DrillScene) -> bool:
    found = (await scene.consul.health_service(SERVICE, consistent=True)).value
    return [each.status for each in found] == ["passing", "passing"]


async def until(holds: object, what: str) -> None:
    async with asyncio.timeout(60):
        while not await holds():  # type: ignore[operator]
            await asyncio.sleep(0.02)


async def test_a_drill_from_its_lock_to_its_last_entry(scene: DrillScene) -> None:
    victim, client = scene.members["a"], scene.operator()
    async with live.drill(client, "night", Fault.FREEZE, "a", seconds=30.0) as running:
        assert (victim.on, running.seconds) == (1, 30.0)
        assert (await operator_client.read_status(client)).drill
        with pytest.raises(DrillRefused) as refused:
            async with live.drill(
                scene.operator("joe", "d2"), "night", Fault.CRASH, "b", seconds=1.0
            ):
                raise AssertionError("it has begun")
        assert refused.value.code == Code.HELD
    assert victim.on == 0
    [entry] = (await operator_client.read_history(client, 20)).drills
    assert (entry.drill, entry.outcome, entry.code) == ("d1", "done", "ended")
    found = await scene.keys()
    assert found.running is None
    assert found.last
    # The lock is free at once: there is no lock-delay.
    async with live.drill(scene.operator(drill="d3"), "again", Fault.CRASH, "b", seconds=30.0):
        assert scene.members["b"].on == 1


async def test_the_fault_ends_with_the_session(scene: DrillScene) -> None:
    client = scene.operator()
    order = Order("d1", "jane@desk", client.clock.wall(), "night", "a")
    held = await drill_lock.take(client, order)
    await held.write(replace(order, fault="freeze", seconds=50.0))

    async def on() -> bool:
        return scene.members["a"].on == 1

    async def off() -> bool:
        return scene.members["a"].on == 0

    await until(on, "the fault is on")
    session = (await scene.keys()).session
    assert session
    await scene.consul.session_destroy(session)
    await until(off, "the fault is undone")
    assert scene.members["a"].phases == [("began", ""), ("aborted", "lock_lost")]
    with pytest.raises(Conflict):
        await held.write(order)


async def test_a_refused_drill_leaves_the_lock_free(scene: DrillScene) -> None:
    await scene.set("b", "warning")

    async def warns() -> bool:
        found = (await scene.consul.health_service(SERVICE, consistent=True)).value
        return "warning" in [each.status for each in found]

    await until(warns, "b warns")
    with pytest.raises(DrillRefused) as refused:
        async with live.drill(scene.operator(), "night", Fault.CRASH, "a", seconds=1.0):
            raise AssertionError("it has begun")
    assert refused.value.code == Code.OTHERS_UNWELL
    assert (await scene.keys()).session is None
    assert scene.members["a"].armed == []
