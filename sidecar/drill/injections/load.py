"""Faults that clients cause: more requests than before, or one that kills.

Acts: asyncio, time.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from sidecar.drill.load.deadly import send_deadly_requests
from sidecar.drill.load.spec import multiplied
from sidecar.drill.scenario import Injection
from sidecar.drill.stage.mesh import MeshStage
from sidecar.runtime.errors import Rejected

_MOST_VICTIMS = 2
_LOOK = 0.1  # seconds between two looks at the Tritons' pids


def overload(times: int) -> Injection[MeshStage]:
    """So many times the present load, without its streams, on top of it."""

    @asynccontextmanager
    async def overloaded(stage: MeshStage, victim: str) -> AsyncIterator[None]:
        more = multiplied(stage.spec, times)
        async with stage.loaded(more, began=time.monotonic(), seed=0) as running:
            yield
        bad = sum(each.outcome != "answered" for each in running.samples)
        if bad or not running.samples:
            sent = len(running.samples)
            raise Rejected(f"{bad} of {sent} further requests were not answered rightly")

    return overloaded


@asynccontextmanager
async def query_of_death(stage: MeshStage, victim: str) -> AsyncIterator[None]:
    """A client sends a deadly request again and again, each time on a new connection."""
    before, killed = _tritons(stage), set[str]()
    async with asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(send_deadly_requests(stage.now.envoy.grpc))
        looking = tasks.create_task(_look(stage, before, killed))
        try:
            yield
        finally:
            sending.cancel()
            looking.cancel()
    if len(killed) > _MOST_VICTIMS:
        raise Rejected(f"at most {_MOST_VICTIMS} instances may go down, and {sorted(killed)} did")


async def _look(stage: MeshStage, before: Mapping[str, int | None], killed: set[str]) -> None:
    while True:
        now = _tritons(stage)
        killed |= {name for name, pid in now.items() if pid != before[name]}
        await asyncio.sleep(_LOOK)


def _tritons(stage: MeshStage) -> Mapping[str, int | None]:
    return {instance.id: instance.triton.pid for instance in stage.now.instances}
