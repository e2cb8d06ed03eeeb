"""How fast new streams are taken on, on a clock that is turned by hand."""

import asyncio
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from sidecar.xds.admission import Bucket
from sidecar.xds.discovery import Door
from tests.pure.test_xds_watch import HandClock, quiet


def test_a_burst_passes_and_then_one_at_a_time() -> None:
    bucket = Bucket(rate=10.0, burst=2.0, level=2.0)
    for _ in range(2):
        assert bucket.pause(0.0) == 0.0
        bucket = bucket.take(0.0)
    assert bucket.pause(0.0) == 0.1
    assert bucket.pause(0.06) > 0.0
    assert bucket.pause(0.1) == 0.0


def test_a_bucket_does_not_overflow() -> None:
    bucket = Bucket(rate=10.0, burst=2.0, level=0.0)
    for _ in range(2):
        bucket = bucket.take(1000.0)
    assert bucket.pause(1000.0) > 0.0


@given(
    st.lists(st.floats(0.0, 0.2), min_size=1, max_size=200),
    st.floats(1.0, 1000.0),
    st.integers(1, 20),
)
def test_no_more_than_the_rate_and_a_burst_ever_pass(
    gaps: list[float], rate: float, burst: int
) -> None:
    bucket, now, passed = Bucket(rate, burst, burst, 0.0), 0.0, 0
    for gap in gaps:
        now += gap
        if bucket.pause(now) == 0.0:
            bucket = bucket.take(now)
            passed += 1
        assert passed <= burst + rate * now + 1e-6


async def crowd(door: Door, count: int) -> tuple[list[int], list[asyncio.Task[None]]]:
    entered: list[int] = []

    async def enter(number: int) -> None:
        await door.enter()
        entered.append(number)

    tasks = [asyncio.create_task(enter(number)) for number in range(count)]
    await quiet()
    return entered, tasks


async def end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_hundred_at_once_are_in_within_a_second_and_in_order() -> None:
    clock = HandClock()
    door = Door(clock, lambda: False)
    entered, tasks = await crowd(door, 100)
    assert 0 < len(entered) < 20
    assert door.waiting == 100 - len(entered)
    await clock.turn(1.0)
    assert entered == list(range(100))
    assert door.waiting == 0
    await end(*tasks)


async def test_who_gives_up_costs_nothing() -> None:
    clock = HandClock()
    door = Door(clock, lambda: False)
    entered, tasks = await crowd(door, 60)
    first = len(entered)
    await end(*tasks[first:50])
    assert door.waiting == 10
    await clock.turn(0.1 + 1e-6)
    assert entered == [*range(first), *range(50, 60)]
    await end(*tasks)


async def test_those_who_are_connected_come_first_but_not_for_ever() -> None:
    door = Door(HandClock(), lambda: True)
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
