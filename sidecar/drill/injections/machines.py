"""Faults of the machines that sidecars and control planes run on: a full disk, a clock that jumps.

Acts: through what it imports or is given.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sidecar.drill.cluster.clocks import clock_file
from sidecar.drill.cluster.small_disk import DISK, filled
from sidecar.drill.cluster.stage import ClusterStage
from sidecar.drill.stage import undo
from sidecar.drill.stage.dead_mans_switch import undone_at_the_end, without_blocking
from sidecar.local.meshfile import write_whole

_HOUR = 3600  # seconds


@asynccontextmanager
async def disk_full(stage: ClusterStage, victim: str) -> AsyncIterator[None]:
    """The disk is full that has all logs, and what sidecars and the control plane keep."""
    filler = stage.folder / DISK / "filler"
    async with undone_at_the_end(undo.file(filler)), without_blocking(filled(filler)):
        yield


@asynccontextmanager
async def clocks_jumped(stage: ClusterStage, victim: str) -> AsyncIterator[None]:
    """The wall clocks of the victim's sidecar and of the control plane go an hour forward.

    They go back at the end. The processes see either within two seconds.
    """
    files = [clock_file(stage.folder, part) for part in (stage.sidecar_of(victim), "xds")]
    async with undone_at_the_end(*map(undo.file, files)):
        for file in files:
            write_whole(file, f"+{_HOUR}\n")
        yield
