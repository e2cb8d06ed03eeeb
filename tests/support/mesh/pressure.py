"""A mesh under overload, and short pauses of its primary."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sidecar.drill.misbehaving_models import UNARY
from sidecar.local import timeline
from sidecar.local.load import LoadTally
from tests.support.faults.fault_play import loaded, sayings
from tests.support.faults.faults import CLIENTS
from tests.support.faults.faulty_load import faulty_load
from tests.support.faults.stages import QUEUED
from tests.support.mesh.mesh import LiveMesh
from tests.support.mesh.mesh_outside import metric

_FREEZE = 'kill -s STOP -- "-$1"; sleep "$2"; kill -s CONT -- "-$1"'
_SAMPLE = 0.25  # seconds between two looks at the queue
_PENDING = "nv_inference_pending_request_count"


@dataclass(slots=True)
class Watched:
    """What was seen for a while: verdicts by state, new primaries, requests, the shortest queue."""

    verdicts: Counter[str] = field(default_factory=Counter)
    primaries: list[str] = field(default_factory=list)
    unary: LoadTally = field(default_factory=LoadTally)
    seconds: float = 0.0
    queue: int | None = None


async def calm(address: str, seconds: float) -> LoadTally:
    """What one client at a time gets to see."""
    async with faulty_load(address, address, unary=1, streams=0) as load:
        await asyncio.sleep(seconds)
    return load.unary


async def saturate(mesh: LiveMesh, seconds: float, clients: int = QUEUED) -> Watched:
    """Load whose queue on the primary is never empty."""
    async with _watched(mesh, clients) as (seen, result):
        ending = time.monotonic() + seconds
        shortest: list[int] = []
        looked = time.monotonic()
        while time.monotonic() < ending or not shortest:
            address = mesh.instance(seen.primary or "").triton.metrics
            pending = int(await metric(address, _PENDING, model=UNARY))
            # Where this process itself stood still, so did its clients: the queue says nothing.
            if time.monotonic() < looked + 3 * _SAMPLE:
                shortest.append(pending)
            looked = time.monotonic()
            await asyncio.sleep(_SAMPLE)
        result.queue = min(shortest)
    return result


async def freeze(mesh: LiveMesh, pauses: Sequence[float], between: float) -> Watched:
    """The primary's Triton stands still for so many seconds, one time after the other."""
    async with _watched(mesh, CLIENTS) as (seen, result):
        for pause in pauses:
            await asyncio.sleep(between)
            group = str(mesh.pid(seen.primary or ""))
            # Not by this process, whose loop is busy with the clients.
            child = await asyncio.create_subprocess_exec(
                "sh", "-c", _FREEZE, "", group, f"{pause:.3f}"
            )
            assert await child.wait() == 0
        await asyncio.sleep(between)
    return result


def pauses(count: int, seed: int) -> list[float]:
    """Random freezes that are too short to be a failure, in seconds."""
    dice = random.Random(seed)
    return [dice.uniform(0.2, 0.8) for _ in range(count)]


@asynccontextmanager
async def _watched(
    mesh: LiveMesh, clients: int
) -> AsyncIterator[tuple[timeline.Timeline, Watched]]:
    result, parts = Watched(), [mesh.sidecar_of(own.id) for own in mesh.now.instances]
    async with loaded(mesh, unary=clients, streams=0) as (seen, load):
        since = {part: mesh.written(part) for part in parts}
        began = time.monotonic()
        yield seen, result
        result.seconds = time.monotonic() - began
        for part in parts:
            result.verdicts.update(said.state for said in sayings(mesh, part, since[part], 0.0))
        result.primaries = [
            sighting.instance
            for sighting in seen.sightings
            if sighting.kind == "primary" and sighting.at >= began
        ]
        result.unary = load.unary.between(began, time.monotonic())
