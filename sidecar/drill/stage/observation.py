"""Observes a mesh from outside, and marks the moments at which something changed.

Acts: asyncio, time.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from sidecar.control_planes import rpc
from sidecar.control_planes.membership import PlaneReports
from sidecar.control_planes.rpc import Primary, Reports
from sidecar.control_planes.watch import SinglePlane
from sidecar.drill.samples import Event, Mark
from sidecar.local import timeline
from sidecar.local.meshfile import Mesh
from sidecar.local.planning.plan import SERVICE
from sidecar.local.timeline import Sighting, Timeline
from sidecar.runtime.clock import SystemClock


@dataclass(slots=True)
class Observation:
    """The marks so far, in seconds since `began`, which is on the monotonic clock."""

    began: float = field(default_factory=time.monotonic)
    added: list[Mark] = field(default_factory=list)
    timeline: Timeline = field(default_factory=Timeline)

    @property
    def marks(self) -> tuple[Mark, ...]:
        """All marks, in the order of time."""
        seen = (mark_of(one, self.began) for one in self.timeline.sightings)
        return tuple(sorted((*self.added, *filter(None, seen)), key=lambda mark: mark.at))

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began

    def mark(
        self, event: Event, instance: str = "", detail: str = "", reason: str = "", epoch: int = 0
    ) -> Mark:
        """Mark something that happens now."""
        return self.add(
            Mark(self.elapsed, event, instance, detail=detail, reason=reason, epoch=epoch)
        )

    def add(self, made: Mark) -> Mark:
        """Add a mark of a moment."""
        self.added.append(made)
        return made

    def since(self, moment: float, event: Event) -> Iterable[Mark]:
        """The marks of one kind at or after a moment."""
        return (mark for mark in self.marks if mark.event == event and mark.at >= moment)


def observed(mesh: Mesh) -> AbstractAsyncContextManager[Observation]:
    """Observe a local mesh while the context lasts."""
    plane = SinglePlane(mesh.xds.address)
    reports = rpc.watch_primary(plane, SERVICE, SystemClock())
    return observing(timeline.follow(mesh, traffic=False), reports)


@asynccontextmanager
async def observing(
    followed: AbstractAsyncContextManager[Timeline],
    reports: AbstractAsyncContextManager[Reports[Primary]],
) -> AsyncIterator[Observation]:
    """Observe verdicts, the lock, and what Envoys acknowledge, while the context lasts.

    Args:
        followed: the verdicts and the lock.
        reports: what each control plane says about the primary. Without a control plane nothing is
            marked: its absence shows as missing marks.
    """
    made = Observation()
    async with followed as seen, reports as newest:
        made.timeline = seen
        placing = asyncio.create_task(_placements(newest, made))
        try:
            yield made
        finally:
            placing.cancel()
            await asyncio.wait((placing,))


def mark_of(seen: Sighting, began: float) -> Mark | None:
    """The mark of a sighting, in seconds since `began`; None if a drill does not need it."""
    at = seen.at - began
    if seen.kind == "verdict":
        return Mark(at, "verdict", seen.instance, status=seen.value, reason=seen.reason)
    if seen.kind == "primary":
        return Mark(at, "primary", seen.instance, epoch=int(seen.value))
    return None


async def _placements(reports: Reports[Primary], made: Observation) -> None:
    """Mark when a control plane prefers another instance, and when all Envoys know."""
    published, acked = (0, ""), 0
    async for current in reports:
        newest = preferred(current)
        if newest and newest.epoch and (newest.epoch, newest.instance) != published:
            published = (newest.epoch, newest.instance)
            made.mark("published", newest.instance, epoch=newest.epoch)
        if newest and newest.epoch > acked and everywhere(current, newest):
            acked = newest.epoch
            made.mark("acked", newest.instance, epoch=acked)


def preferred(current: PlaneReports[Primary]) -> Primary | None:
    """The newest primary that a control plane prefers; None if none follows the service."""
    known = (report for report in current.reports if report and report.followed)
    return max(known, key=lambda report: report.epoch, default=None)


def everywhere(current: PlaneReports[Primary], newest: Primary) -> bool:
    """Whether all Envoys of all control planes prefer the newest primary, and there are any."""
    known = [report for report in current.reports if report is not None]
    complete = not current.incomplete and len(known) == len(current.reports)
    agree = all(report.agrees(newest.instance, newest.epoch) for report in known)
    return complete and agree and any(report.envoys for report in known)
