"""Observes a mesh from outside, and marks the moments at which something changed.

Acts: asyncio, grpc, time.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import grpc.aio

from sidecar.drill.samples import Event, Mark
from sidecar.local import timeline
from sidecar.local.meshfile import Mesh
from sidecar.local.planning.plan import SERVICE
from sidecar.local.timeline import Sighting, Timeline
from sidecar.v1 import control_plane_pb2, control_plane_pb2_grpc

_RETRY = 0.2  # seconds until a control plane that is gone is called again


@dataclass(slots=True)
class Observation:
    """The marks so far, in seconds since `began`, which is on the monotonic clock."""

    began: float = field(default_factory=time.monotonic)
    added: list[Mark] = field(default_factory=list)
    timeline: Timeline = field(default_factory=Timeline)

    @property
    def marks(self) -> tuple[Mark, ...]:
        """All marks, in the order of time."""
        seen = (_mark(one, self.began) for one in _without_replays(self.timeline.sightings))
        return tuple(sorted((*self.added, *filter(None, seen)), key=lambda mark: mark.at))

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began

    def mark(self, event: Event, instance: str = "", detail: str = "") -> Mark:
        """Mark something that happens now."""
        made = Mark(self.elapsed, event, instance, detail)
        self.added.append(made)
        return made

    def since(self, moment: float, event: Event) -> Iterable[Mark]:
        """The marks of one kind at or after a moment."""
        return (mark for mark in self.marks if mark.event == event and mark.at >= moment)


@asynccontextmanager
async def observed(mesh: Mesh) -> AsyncIterator[Observation]:
    """Observe a mesh while the context lasts: verdicts, the lock, and what Envoys acknowledge."""
    made = Observation()
    async with timeline.follow(mesh, traffic=False) as seen:
        made.timeline = seen
        placing = asyncio.create_task(_placements(mesh.xds.address, made))
        try:
            yield made
        finally:
            placing.cancel()
            await asyncio.wait((placing,))


def _without_replays(sightings: Iterable[Sighting]) -> Iterator[Sighting]:
    """All but the primaries of older epochs: a Consul server that was restarted replays its log.

    It answers with those states while it does, also as the leader.
    """
    newest = 0
    for one in sightings:
        if one.kind != "primary" or int(one.value) > newest:
            newest = int(one.value) if one.kind == "primary" else newest
            yield one


def _mark(seen: Sighting, began: float) -> Mark | None:
    if seen.kind == "verdict":
        detail = f"{seen.value} {seen.reason}".strip()
        return Mark(seen.at - began, "verdict", seen.instance, detail)
    if seen.kind == "primary":
        return Mark(seen.at - began, "primary", seen.instance, seen.value)
    return None


async def _placements(address: str, made: Observation) -> None:
    """Mark when the control plane prefers another instance, and when all its Envoys know.

    Without the control plane nothing is marked: its absence shows as missing marks.
    """
    published, acked = (0, ""), 0
    async with grpc.aio.insecure_channel(address) as channel:
        stub = control_plane_pb2_grpc.ControlPlaneServiceStub(channel)  # type: ignore[no-untyped-call]
        while True:
            with suppress(grpc.aio.AioRpcError):
                request = control_plane_pb2.WatchPrimaryRequest(service=SERVICE)
                async for said in stub.WatchPrimary(request):
                    if said.epoch and (said.epoch, said.instance) != published:
                        published = (said.epoch, said.instance)
                        made.mark("published", said.instance, str(said.epoch))
                    if said.epoch > acked and said.envoys == said.envoys_acknowledged > 0:
                        acked = said.epoch
                        made.mark("acked", said.instance, str(said.epoch))
            await asyncio.sleep(_RETRY)
