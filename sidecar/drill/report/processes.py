"""The processes of a soak as they are printed: memory, how it grew, and descriptors. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sidecar.drill.record import Record
from sidecar.drill.report.figures import NOT_SEEN, duration
from sidecar.drill.soak import resource_growth

_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """A process as it is printed. `grows` is whether its memory grows by more than it may."""

    name: str
    lives: str
    memory: str
    per_hour: str
    judged_over: str
    verdict: str
    descriptors: str
    grows: bool


def rows(record: Record) -> Iterator[ProcessRow]:
    """A row for each process; other drills than soaks have none."""
    for each in record.processes:
        grows = resource_growth.grows(each, record.objectives["memory_growth"])
        judged = each.slope is not None
        yield ProcessRow(
            name=each.name,
            lives=str(each.lives),
            memory=f"{each.rss / _MIB:.1f} MiB",
            per_hour=f"{each.slope / _MIB:+.2f} MiB" if each.slope is not None else NOT_SEEN,
            judged_over=duration(each.observed) if judged else "",
            verdict="grows" if grows else "flat" if judged else "too short-lived",
            descriptors=f"{each.descriptors_before} → {each.descriptors_after}",
            grows=grows,
        )
