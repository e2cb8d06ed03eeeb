"""What looks like a failure and is none: overload, and short freezes of the primary."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from sidecar.drill.injections.load import crowd
from sidecar.drill.misbehaving_models import UNARY
from sidecar.drill.record import Run, Violation
from sidecar.drill.samples import Sample
from sidecar.drill.scenario import Expectation, Injection, Scenario
from sidecar.drill.stage.http import request
from sidecar.drill.stage.mesh import MeshStage
from sidecar.drill.stage.waiting import PATIENCE, until
from sidecar.runtime.errors import Unavailable
from tests.support.drills import drilled
from tests.support.mesh.mesh import LiveMesh, newest_load
from tests.support.mesh.mesh_outside import metric_in

_FREEZE = 'kill -s STOP -- "-$1"; sleep "$2"; kill -s CONT -- "-$1"'
_LOOK = 0.25  # seconds between two looks at the queue
_LATE = 3 * _LOOK  # the most that a look says something about
_PENDING = "nv_inference_pending_request_count"
_UNHARMED = Expectation(moves_role=False, stays_healthy=True)


def overload(clients: int, seconds: float, lengths: list[int]) -> Scenario[MeshStage]:
    """So many further clients, until requests waited at the primary for so many seconds.

    `lengths` gets the length of the primary's queue at each look, as requests; see `Queue`.
    """
    hypothesis = "A long queue is no failure: no verdict is critical, and no request fails."
    inject = _queued(clients, seconds, lengths)
    return Scenario("overload", "overload", hypothesis, inject, expects=_UNHARMED, lasts=0.0)


def freezes(pauses: Sequence[float], between: float) -> Scenario[MeshStage]:
    """The primary's Triton is frozen for so many seconds, one time after the other."""
    hypothesis = "A short freeze is no failure: no verdict is critical, and no request fails."
    inject = _frozen(pauses, between)
    return Scenario("freezes", "freezes", hypothesis, inject, expects=_UNHARMED, lasts=0.0)


def pauses(count: int, seed: int) -> list[float]:
    """Random freezes that are too short to be a failure, in seconds."""
    dice = random.Random(seed)
    return [dice.uniform(0.2, 0.8) for _ in range(count)]


async def pressed(
    mesh: LiveMesh, scenario: Scenario[MeshStage], *, unary: int, between: float | None = None
) -> Run:
    """Run it as a drill; if any sidecar logs that it is CRITICAL, that is a violation too."""
    await mesh.steady()
    sidecars = [mesh.sidecar_of(each.id) for each in mesh.now.instances]
    since = {part: mesh.written(part) for part in sidecars}
    run = await drilled(mesh, scenario, unary=unary, streams=0, between=between)
    critical = [part for part in sidecars if "CRITICAL" in mesh.states(part, since[part])]
    if not critical:
        return run
    found = Violation("unhealthy", "no critical verdict", f"one of {', '.join(critical)}")
    status = "failed" if run.status == "passed" else run.status
    return replace(run, status=status, violations=(*run.violations, found))


@dataclass(slots=True)
class Queue:
    """What looks at the primary's queue showed.

    Attributes:
        lengths: requests at each look that says something, from the first that waited on.
        waited: for how many seconds some did.
    """

    lengths: list[int]
    waited: float = 0.0

    def saw(self, length: int, after: float, ended: Sequence[Sample]) -> None:
        """A look, `after` so many seconds; `ended` are the crowd's requests since the one before.

        An empty queue says nothing if the crowd's process has not begun, or stood still itself.
        """
        stood_still = not ended or max(each.late for each in ended) > _LOOK
        if not length and (stood_still or not self.lengths):
            return
        self.lengths.append(length)
        if length:
            self.waited += min(after, _LATE)


def _queued(clients: int, seconds: float, lengths: list[int]) -> Injection[MeshStage]:
    @asynccontextmanager
    async def crowded(stage: MeshStage, victim: str) -> AsyncIterator[None]:
        async with crowd(clients)(stage, victim):
            await _waiting(stage, victim, Queue(lengths), seconds)
            yield

    return crowded


async def _waiting(stage: MeshStage, victim: str, queue: Queue, seconds: float) -> None:
    """Look at the queue until requests waited there for so many seconds."""
    address, asking = stage.instance(victim).triton.metrics, newest_load(stage)
    looked, counted = time.monotonic(), 0

    async def long_enough() -> bool:
        nonlocal looked, counted
        metrics = await request("GET", f"http://{address}/metrics")
        now, ended = time.monotonic(), asking.samples[counted:]
        queue.saw(int(metric_in(metrics, _PENDING, model=UNARY)), now - looked, ended)
        looked, counted = now, counted + len(ended)
        return queue.waited >= seconds

    what = f"requests that wait for {seconds:g} s"
    await until(long_enough, what, patience=seconds + PATIENCE, pause=_LOOK)


def _frozen(pauses: Sequence[float], between: float) -> Injection[MeshStage]:
    @asynccontextmanager
    async def freeze(stage: MeshStage, victim: str) -> AsyncIterator[None]:
        group = str(stage.pid(victim))
        for pause in pauses:
            # Not by this process, which may be late to thaw it.
            child = await asyncio.create_subprocess_exec(
                "sh", "-c", _FREEZE, "", group, f"{pause:.3f}"
            )
            if await child.wait():
                raise Unavailable(f"{victim} cannot be frozen")
            await asyncio.sleep(between)
        yield

    return freeze
