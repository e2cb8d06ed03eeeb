"""Contexts that block begin and end in threads."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sidecar.drill.stage.dead_mans_switch import without_blocking
from sidecar.runtime.errors import Unavailable


class Fault:
    """A fault that begins when it is let."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.begun = self.ended = False

    @contextmanager
    def caused(self) -> Iterator[None]:
        self.let.wait()
        self.begun = True
        try:
            yield
        finally:
            self.ended = True


async def test_the_event_loop_runs_while_a_fault_begins() -> None:
    fault = Fault()
    asyncio.get_running_loop().call_soon(fault.let.set)
    async with without_blocking(fault.caused()):
        assert fault.begun
        assert not fault.ended
    assert fault.ended


async def test_a_fault_that_begins_after_a_cancellation_ends() -> None:
    fault = Fault()

    async def hold() -> None:
        async with without_blocking(fault.caused()):
            raise AssertionError("it was cancelled before")

    holding = asyncio.create_task(hold())
    await asyncio.sleep(0)
    holding.cancel()
    await asyncio.sleep(0)
    fault.let.set()
    with pytest.raises(asyncio.CancelledError):
        await holding
    assert fault.begun
    assert fault.ended


async def test_a_fault_that_cannot_begin_has_no_end() -> None:
    @contextmanager
    def fails(why: str) -> Iterator[None]:
        if why:
            raise Unavailable(why)
        yield

    with pytest.raises(Unavailable, match="armed"):
        async with without_blocking(fails("not armed")):
            pass
