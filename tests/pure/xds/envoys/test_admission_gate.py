"""How fast new streams are admitted, on a manual clock."""

import asyncio
from contextlib import suppress

from sidecar.xds.envoys.admission_gate import AdmissionGate
from tests.support.virtual_clock import VirtualClock, settle


async def crowd(door: AdmissionGate, count: int) -> tuple[list[int], list[asyncio.Task[None]]]:
    entered: list[int] = []

    async def enter(number: int) -> None:
        await door.enter()
        entered.append(number)

    tasks = [asyncio.create_task(enter(number)) for number in range(count)]
    await settle()
    return entered, tasks


async def end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_hundred_at_once_are_in_within_a_second_and_in_order() -> None:
    clock = VirtualClock()
    door = AdmissionGate(clock, lambda: False)
    entered, tasks = await crowd(door, 100)
    assert 0 < len(entered) < 20
    assert door.waiting == 100 - len(entered)
    await clock.advance(1.0)
    assert entered == list(range(100))
    assert door.waiting == 0
    await end(*tasks)


async def test_who_gives_up_costs_nothing() -> None:
    clock = VirtualClock()
    door = AdmissionGate(clock, lambda: False)
    entered, tasks = await crowd(door, 60)
    first = len(entered)
    await end(*tasks[first:50])
    assert door.waiting == 10
    await clock.advance(0.1 + 1e-6)
    assert entered == [*range(first), *range(50, 60)]
    await end(*tasks)


async def test_those_who_are_connected_come_first_but_not_for_ever() -> None:
    door = AdmissionGate(VirtualClock(), lambda: True)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counter = asyncio.create_task(count())
    await door.enter()
    assert turns >= 10
    await end(counter)
