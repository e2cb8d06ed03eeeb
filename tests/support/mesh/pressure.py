"""What looks like a failure and is none: overload, and short freezes of the primary."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from sidecar.drill.injections.load import crowd
from sidecar.drill.misbehaving_models import UNARY
from sidecar.drill.scenario import Expectation, Injection, Scenario
from sidecar.drill.stage.mesh import MeshStage
from tests.support.mesh.mesh_outside import metric, until

_FREEZE = 'kill -s STOP -- "-$1"; sleep "$2"; kill -s CONT -- "-$1"'
_LOOK = 0.25  # seconds between two looks at the queue
_PENDING = "nv_inference_pending_request_count"
_UNHARMED = Expectation(moves_role=False, stays_healthy=True)


def overload(clients: int, seconds: float, lengths: list[int]) -> Scenario[MeshStage]:
    """So many further clients, until requests waited at the primary for so many seconds.

    `lengths` gets the length of the primary's queue at each look, as requests.
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


def _queued(clients: int, seconds: float, lengths: list[int]) -> Injection[MeshStage]:
    looks = round(seconds / _LOOK)

    async def waited(address: str) -> bool:
        """A look at an empty queue does not count: the clients lacked the CPU for more."""
        lengths.append(int(await metric(address, _PENDING, model=UNARY)))
        return sum(map(bool, lengths)) >= looks

    @asynccontextmanager
    async def crowded(stage: MeshStage, victim: str) -> AsyncIterator[None]:
        address = stage.instance(victim).triton.metrics
        async with crowd(clients)(stage, victim):
            await until(lambda: waited(address), "a queue", pause=_LOOK)
            yield

    return crowded


def _frozen(pauses: Sequence[float], between: float) -> Injection[MeshStage]:
    @asynccontextmanager
    async def freeze(stage: MeshStage, victim: str) -> AsyncIterator[None]:
        group = str(stage.pid(victim))
        for pause in pauses:
            # Not by this process, which may be late to thaw it.
            child = await asyncio.create_subprocess_exec(
                "sh", "-c", _FREEZE, "", group, f"{pause:.3f}"
            )
            assert await child.wait() == 0
            await asyncio.sleep(between)
        yield

    return freeze
