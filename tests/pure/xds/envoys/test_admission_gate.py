"""How fast new streams are admitted, on a manual clock."""

import asyncio
from contextlib import suppress

from sidecar.xds.envoys.admission_gate import AdmissionGate
from tests.support.virtual_clock import VirtualClock, settle


async def enter_many(gate: AdmissionGate, count: int) -> tuple[list[int], list[asyncio.Task[None]]]:
    entered: list[int] = []

    async def enter(number: int) -> None:
        await gate.enter()
        entered.append(number)

    tasks = [asyncio.create_task(enter(number)) for number in range(count)]
    await settle()
    return entered, tasks


async def end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_hundred_streams_are_admitted_within_a_second_and_in_order() -> None:
    clock = VirtualClock()
    gate = AdmissionGate(clock, lambda: False)
    entered, tasks = await enter_many(gate, 100)
    assert 0 < len(entered) < 20
    assert gate.waiting == 100 - len(entered)
    await clock.advance(1.0)
    assert entered == list(range(100))
    assert gate.waiting == 0
    await end(*tasks)


async def test_a_cancelled_stream_uses_no_token() -> None:
    clock = VirtualClock()
    gate = AdmissionGate(clock, lambda: False)
    entered, tasks = await enter_many(gate, 60)
    first = len(entered)
    await end(*tasks[first:50])
    assert gate.waiting == 10
    await clock.advance(0.1 + 1e-6)
    assert entered == [*range(first), *range(50, 60)]
    await end(*tasks)


async def test_connected_streams_come_first_but_not_forever() -> None:
    gate = AdmissionGate(VirtualClock(), lambda: True)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counter = asyncio.create_task(count())
    await gate.enter()
    assert turns >= 10
    await end(counter)
