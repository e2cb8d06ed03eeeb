"""Two faults that meet: when each begins, and that both are removed whatever happens."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from sidecar.drill.injections.pairs import both
from sidecar.drill.scenario import Injection
from sidecar.runtime.errors import Rejected
from tests.support.virtual_clock import VirtualClock, settle


class Scene:
    """Faults that note what happens to them; one may take long to begin, or fail."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.seen: list[str] = []

    def fault(self, name: str, takes: float = 0.0, fails: bool = False) -> Injection[None]:
        @asynccontextmanager
        async def caused(stage: None, victim: str) -> AsyncIterator[None]:
            self.seen.append(f"{name} begins on {victim}")
            try:
                await self.clock.sleep(takes)
                if fails:
                    raise Rejected(name)
                self.seen.append(f"{name} on")
                yield
            finally:
                self.seen.append(f"{name} off")

        return caused

    async def hold(self, first: Injection[None], second: Injection[None]) -> None:
        async with both(first, second, after=2.0, clock=self.clock)(None, "a"):
            self.seen.append("both")


async def test_the_second_begins_while_the_first_still_does() -> None:
    scene = Scene()
    holding = asyncio.create_task(scene.hold(scene.fault("1", takes=5.0), scene.fault("2")))
    await scene.clock.advance(3.0)
    assert scene.seen == ["1 begins on a", "2 begins on a", "2 on"]
    await scene.clock.advance(3.0)
    await holding
    assert scene.seen[3:] == ["1 on", "both", "1 off", "2 off"]


async def test_the_second_does_not_begin_before_its_time() -> None:
    scene = Scene()
    holding = asyncio.create_task(scene.hold(scene.fault("1"), scene.fault("2")))
    await scene.clock.advance(1.0)
    assert scene.seen == ["1 begins on a", "1 on"]
    await scene.clock.advance(2.0)
    await holding
    assert scene.seen[2:] == ["2 begins on a", "2 on", "both", "2 off", "1 off"]


@pytest.mark.parametrize("takes", [0.0, 60.0])
async def test_the_first_is_removed_if_the_second_fails(takes: float) -> None:
    scene = Scene()
    second = scene.fault("2", fails=True)
    holding = asyncio.create_task(scene.hold(scene.fault("1", takes=takes), second))
    await scene.clock.advance(3.0)
    with pytest.raises(Rejected, match="2"):
        await holding
    assert scene.seen[-2:] == ["2 off", "1 off"]


async def test_the_second_is_removed_if_the_first_fails() -> None:
    scene = Scene()
    first = scene.fault("1", takes=5.0, fails=True)
    holding = asyncio.create_task(scene.hold(first, scene.fault("2")))
    await scene.clock.advance(6.0)
    with pytest.raises(Rejected, match="1"):
        await holding
    assert scene.seen[-2:] == ["1 off", "2 off"]


@pytest.mark.parametrize("after", [1.0, 3.0])
async def test_both_are_removed_if_the_drill_is_interrupted(after: float) -> None:
    scene = Scene()
    faults = (scene.fault("1", takes=60.0), scene.fault("2", takes=60.0))
    holding = asyncio.create_task(scene.hold(*faults))
    await scene.clock.advance(after)
    holding.cancel()
    await settle()
    assert holding.cancelled()
    begun = sum("begins" in each for each in scene.seen)
    assert sum("off" in each for each in scene.seen) == begun
