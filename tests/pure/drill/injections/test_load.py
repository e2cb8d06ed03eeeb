"""Faults that clients cause: which hypotheses are violated, and which error is raised."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.drill.injections import load
from sidecar.drill.load.spec import OpenLoop
from sidecar.drill.record import Violation
from sidecar.drill.scenario import Violated
from sidecar.runtime.errors import Unavailable


class Stage:
    """Instances with pids, and a load with outcomes."""

    def __init__(self, *outcomes: str) -> None:
        self.spec = OpenLoop()
        self.pids = {f"triton-{number}": number for number in range(4)}
        self.outcomes = outcomes

    @property
    def now(self) -> Any:
        instances = [
            SimpleNamespace(id=name, triton=SimpleNamespace(pid=pid))
            for name, pid in self.pids.items()
        ]
        return SimpleNamespace(instances=instances, envoy=SimpleNamespace(grpc=""))

    @asynccontextmanager
    async def loaded(self, *_: object, **__: object) -> AsyncIterator[Any]:
        yield SimpleNamespace(samples=[SimpleNamespace(outcome=each) for each in self.outcomes])


async def _deadly(address: str) -> None:
    await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "send_deadly_requests", _deadly)
    monkeypatch.setattr(load, "_LOOK", 0.0)


async def query_of_death(stage: Any, *victims: str) -> None:
    async with load.query_of_death(stage, ""):
        await asyncio.sleep(0)
        for victim in victims:
            stage.pids[victim] = None
        for _ in range(3):
            await asyncio.sleep(0)


async def test_a_third_victim_is_a_violation() -> None:
    await query_of_death(Stage(), "triton-0", "triton-1")
    with pytest.raises(Violated) as raised:
        await query_of_death(Stage(), "triton-0", "triton-1", "triton-3")
    found = "triton-0, triton-1, triton-3"
    assert raised.value.violation == Violation("victims", "at most 2 instances down", found)


async def test_a_query_of_death_that_cannot_be_sent_is_one_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fails(address: str) -> None:
        raise Unavailable("no client")

    monkeypatch.setattr(load, "send_deadly_requests", fails)
    with pytest.raises(Unavailable, match="client"):
        await query_of_death(Stage())


async def test_an_error_of_the_block_is_what_is_raised() -> None:
    stage: Any = Stage()
    with pytest.raises(Unavailable):
        async with load.query_of_death(stage, ""):
            raise Unavailable("the block")


async def test_a_further_request_that_fails_is_a_violation() -> None:
    for outcomes, found in ((("answered", "failed"), "1 of 2"), ((), "0 of 0")):
        stage: Any = Stage(*outcomes)
        with pytest.raises(Violated) as raised:
            async with load.overload(3)(stage, ""):
                pass
        assert raised.value.violation == Violation("further_failed", "0 further requests", found)
    well: Any = Stage("answered")
    async with load.overload(3)(well, ""):
        pass
