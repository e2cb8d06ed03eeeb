"""Cells with the newest value, and waiting for the first of several."""

import asyncio

from sidecar.runtime.latest import Latest, first_of
from tests.support.virtual_clock import VirtualClock, settle

PATIENCE = 60.0  # seconds; machines are shared


async def test_a_slow_reader_sees_the_newest_value_only() -> None:
    cell = Latest(0)
    seen: list[int] = []
    go_on = asyncio.Event()

    async def read() -> None:
        async for value in cell:
            seen.append(value)
            await go_on.wait()

    reader = asyncio.create_task(read())
    await asyncio.sleep(0)
    for value in range(1, 100):
        cell.set(value)
    go_on.set()
    await settle()
    reader.cancel()
    assert seen == [0, 99]


async def test_an_equal_value_is_no_change() -> None:
    cell = Latest("a")
    cell.set("a")
    assert cell.version == 0
    cell.set("b")
    assert await cell.changed(0) == (1, "b")


async def test_every_reader_is_woken() -> None:
    cell = Latest(0)
    readers = [asyncio.create_task(cell.changed(0)) for _ in range(3)]
    await asyncio.sleep(0)
    cell.set(5)
    assert await asyncio.gather(*readers) == [(1, 5)] * 3


async def test_first_of_returns_on_a_change_or_timeout_and_leaves_nothing_running() -> None:
    cell, clock = Latest(0), VirtualClock()
    waiting = asyncio.create_task(first_of(clock, 5.0, cell.changed(0)))
    await clock.advance(4.0)
    assert not waiting.done()
    await clock.advance(1.0)
    await waiting
    cell.set(1)
    await asyncio.wait_for(first_of(clock, None, cell.changed(0), asyncio.Event().wait()), PATIENCE)
    assert asyncio.all_tasks() == {asyncio.current_task()}
