"""When a fault was caused that the victim's sidecar was ordered to cause."""

import asyncio
from contextlib import suppress

import pytest

from sidecar.consul.api import Set
from sidecar.drill.live import live
from sidecar.drill.live.precheck import DrillRefused
from sidecar.drill.live.running import DrillAborted, caused_at
from sidecar.election.keys import lock
from sidecar.injection import keys
from sidecar.injection.keys import Answer
from sidecar.injection.rules import Code, Fault
from tests.support.drill_scene import SERVICE, drill_scene, passing


@pytest.mark.parametrize(
    ("fault", "step"), [(Fault.FREEZE, "arm"), (Fault.SIDECAR_FROZEN, "announced")]
)
async def test_a_fault_counts_from_when_it_was_caused_not_ordered(fault: Fault, step: str) -> None:
    async with drill_scene() as scene:
        ago: list[float] = []

        async def slowly(present: str) -> None:
            if present == step:
                await scene.clock.sleep(1.5)

        async def work() -> None:
            async with live.drill(scene.operator(), "night", fault, "a", seconds=5.0) as running:
                ago.append(running.ago)
                await scene.clock.sleep(2.0)
                ago.append(running.ago)

        scene.members["a"].before = slowly
        began, task = scene.clock.now(), asyncio.create_task(work())
        await passing(scene, task)
        assert scene.clock.now() - began >= 3.5
        assert ago[0] < 0.5
        assert ago[1] == pytest.approx(ago[0] + 2.0)


async def test_a_sidecar_that_cannot_hit_itself_after_all_refuses() -> None:
    async with drill_scene() as scene:
        scene.members["a"].fails = True

        async def work() -> None:
            drill = live.drill(scene.operator(), "night", Fault.SIDECAR_KILLED, "a", seconds=5.0)
            with pytest.raises(DrillRefused) as refused:
                async with drill:
                    await scene.clock.sleep(3600.0)
            assert refused.value.code == Code.NOT_INJECTED

        scene.members["a"].before = lambda step: scene.clock.sleep(1.0 if step == "arm" else 0.0)
        await passing(scene, asyncio.create_task(work()))


async def test_a_sidecar_of_a_version_that_only_claims_is_not_waited_for_long() -> None:
    async with drill_scene() as scene:
        await scene.members["a"].die()
        began: list[float] = []

        async def work() -> None:
            drill = live.drill(scene.operator(), "night", Fault.SIDECAR_KILLED, "a", seconds=5.0)
            with suppress(DrillAborted):
                async with drill as running:
                    began.append(running.ago)

        task = asyncio.create_task(work())
        await scene.clock.advance(1.0)
        said = Answer("d1", "a", "injecting", scene.clock.wall(), fault="sidecar-killed")
        await scene.consul.transact(Set(keys.answer_key(SERVICE, "a"), lock.dumps(said)))
        await passing(scene, task)
        [ago] = began
        assert 5.0 <= ago < 6.5


@pytest.mark.parametrize(
    ("said", "moment"), [(1000.0, 20.0), (999.0, 19.0), (990.0, 18.0), (1010.0, 20.0)]
)
def test_a_clock_that_differs_moves_the_fault_no_further_than_the_order_took(
    said: float, moment: float
) -> None:
    assert caused_at(said, ordered=18.0, now=20.0, wall=1000.0) == moment
