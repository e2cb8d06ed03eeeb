"""A mesh under load, faults that are injected into it, and what clients notice."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sidecar.local import meshfile
from sidecar.local.load import Load, LoadTally, load
from sidecar.local.meshfile import InstanceAddresses, Mesh
from sidecar.local.timeline import Kind, Timeline, follow
from sidecar.runtime.errors import Unavailable

UNARY, STREAMS = 64, 4  # clients
BEFORE = 1.5  # undisturbed seconds
NEAR = 1.0  # seconds after a fault during which it may delay requests
FREEZE = 3.0  # seconds until a fault is removed
_PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Deed:
    """A fault of an instance; `undo` removes it after `FREEZE` seconds."""

    name: str
    act: Callable[[InstanceAddresses], None]
    undo: Callable[[InstanceAddresses], None] | None = None
    cuts_streams: bool = True
    rounds: int = 3


@dataclass(slots=True)
class Outcome:
    """The outcome of one fault: before it, near it, and until the mesh was healthy again."""

    before: LoadTally
    near: LoadTally
    unary: LoadTally
    streams: LoadTally
    seen: dict[Kind, float] = field(default_factory=dict)

    @property
    def extra(self) -> float:
        """The longest extra delay."""
        return self.near.slowest - self.before.quantile(0.99)

    @property
    def noise(self) -> float:
        """The same difference without a fault."""
        return self.before.slowest - self.before.quantile(0.99)

    @property
    def outage(self) -> float:
        """From the first failure to the last."""
        failed = [failure.at for failure in self.unary.failed]
        return max(failed) - min(failed) if failed else 0.0


class Scene:
    """A mesh under load through some address."""

    def __init__(self, mesh: Mesh, timeline: Timeline, running: Load) -> None:
        self._mesh, self._timeline, self.running = mesh, timeline, running

    async def play(self, deed: Deed, victim: str = "") -> Outcome:
        """Inject a fault into an instance, by default the primary, and wait for recovery.

        Raises:
            Unavailable: it does not recover.
        """
        await self._well()
        await asyncio.sleep(BEFORE)
        victim = victim or self._timeline.primary or ""
        # Read again: pids change when parts are restarted.
        instance = meshfile.load(self._mesh.dir).instance(victim)
        began = time.monotonic()
        deed.act(instance)
        if deed.undo:
            await asyncio.sleep(FREEZE)
            deed.undo(instance)
        await self._until(
            lambda: self._seen("verdict", began, victim) is not None, f"{deed.name} is noticed"
        )
        await self._well()
        await asyncio.sleep(began + NEAR - time.monotonic())
        return self._outcome(began, time.monotonic(), victim)

    def _outcome(self, began: float, ended: float, victim: str) -> Outcome:
        unary, streams = self.running.unary, self.running.streams
        calm = [
            (sent, took)
            for sent, took in unary.done
            if sent >= began - BEFORE and sent + took < began
        ]
        kinds: tuple[Kind, ...] = ("verdict", "primary", "traffic")
        seen = {kind: self._seen(kind, began, victim) for kind in kinds}
        return Outcome(
            LoadTally(calm),
            unary.between(began, began + NEAR),
            unary.between(began, ended),
            streams.between(began, ended),
            {kind: at - began for kind, at in seen.items() if at is not None},
        )

    def _seen(self, kind: Kind, began: float, victim: str) -> float | None:
        """The time of the first sighting of a kind; of the victim only its verdict counts."""
        whose = {"only": victim} if kind == "verdict" else {"but": victim}
        found = self._timeline.first(kind, began, **whose)
        return found.at if found else None

    async def _well(self) -> None:
        wanted = {instance.id for instance in self._mesh.instances}
        timeline = self._timeline
        await self._until(
            lambda: (
                timeline.primary is not None
                and all(timeline.verdicts.get(own) == "passing" for own in wanted)
            ),
            "every instance passes and one is primary",
        )

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise Unavailable(f"not so within {_PATIENCE:g} s: {what}")
            await asyncio.sleep(0.02)


@asynccontextmanager
async def loaded(mesh: Mesh, address: str) -> AsyncIterator[Scene]:
    """Load an address of a mesh and follow its timeline, during the context."""
    reference = mesh.instances[0].triton.grpc
    async with (
        follow(mesh) as timeline,
        load(address, reference, unary=UNARY, streams=STREAMS) as running,
    ):
        yield Scene(mesh, timeline, running)
