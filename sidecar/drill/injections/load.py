"""Faults that clients cause: more requests than before, or one that kills.

Acts: asyncio, time.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from sidecar.drill.load.deadly import send_deadly_requests
from sidecar.drill.load.spec import ClosedLoop, LoadSpec, multiplied
from sidecar.drill.record import Violation
from sidecar.drill.scenario import Injection, Violated
from sidecar.drill.stage.mesh import MeshStage

_MOST_VICTIMS = 2
_LOOK = 0.1  # seconds between two looks at the Tritons' pids


def overload(times: int) -> Injection[MeshStage]:
    """So many times the present load, without its streams, on top of it."""
    return lambda stage, victim: _further(stage, multiplied(stage.spec, times))


def crowd(clients: int) -> Injection[MeshStage]:
    """So many further clients, each with its next request when it has its answer."""
    return lambda stage, victim: _further(stage, ClosedLoop(clients, streams=0))


@asynccontextmanager
async def _further(stage: MeshStage, spec: LoadSpec) -> AsyncIterator[None]:
    async with stage.loaded(spec, began=time.monotonic(), seed=0) as running:
        yield
    bad = sum(each.outcome != "answered" for each in running.samples)
    if bad or not running.samples:
        found = f"{bad} of {len(running.samples)}"
        raise Violated(Violation("further_failed", "0 further requests", found))


@asynccontextmanager
async def query_of_death(stage: MeshStage, victim: str) -> AsyncIterator[None]:
    """A client sends a deadly request again and again, each time on a new connection."""
    before, killed = _tritons(stage), set[str]()
    sending = asyncio.create_task(send_deadly_requests(stage.now.envoy.grpc))
    looking = asyncio.create_task(_look(stage, before, killed))
    try:
        yield
    finally:
        failed = await _cancelled(sending, looking)
    if failed:
        raise failed[0]
    if len(killed) > _MOST_VICTIMS:
        expected = f"at most {_MOST_VICTIMS} instances down"
        raise Violated(Violation("victims", expected, ", ".join(sorted(killed))))


async def _cancelled(*tasks: asyncio.Task[None]) -> list[Exception]:
    """End tasks; gives the errors of those that had failed."""
    for task in tasks:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    return [outcome for outcome in outcomes if isinstance(outcome, Exception)]


async def _look(stage: MeshStage, before: Mapping[str, int | None], killed: set[str]) -> None:
    while True:
        now = _tritons(stage)
        killed |= {name for name, pid in now.items() if pid != before[name]}
        await asyncio.sleep(_LOOK)


def _tritons(stage: MeshStage) -> Mapping[str, int | None]:
    return {instance.id: instance.triton.pid for instance in stage.now.instances}
