"""What came of a soak as a whole. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from sidecar.drill.record import SOAK, Figures, Record, Run, Violation
from sidecar.drill.samples import Mark
from sidecar.drill.soak.resource_growth import Inventory, Reading, growing, leaks, trends
from sidecar.drill.violations import of_epochs

_HYPOTHESIS = (
    "No unary request fails while an instance is healthy and reachable; there is one primary at "
    "any time; the memory of every process stays flat; nothing is left behind."
)


def with_all_failures(run: Run) -> Run:
    """The run, which also fails if a unary request failed before its fault was injected."""
    injected = [mark.at for mark in run.marks if mark.event == "injected"]
    early = sum(
        sample.kind == "unary" and sample.outcome != "answered" and sample.ended < injected[0]
        for sample in (run.samples if injected else ())
    )
    if not early:
        return run
    found = Violation("failed_before", "0 requests before the fault", str(early))
    status = "failed" if run.status == "passed" else run.status
    return replace(run, status=status, violations=(*run.violations, found))


def judged(
    record: Record,
    readings: Sequence[Reading],
    primaries: Sequence[Mark],
    memory_growth: float,
    before: Inventory,
    after: Inventory,
    further: Iterable[Violation] = (),
) -> Record:
    """The record with the processes, and with the run that is about all of it.

    Args:
        record: that of all faults.
        readings: of all processes, in the order of time.
        primaries: every change of the lock, in the order of time.
        memory_growth: MiB an hour by which a process may grow.
        before: what existed in the beginning.
        after: what exists at the end.
        further: what else was violated.
    """
    middle = (readings[0].at + readings[-1].at) / 2 if readings else 0.0
    processes = trends(readings, middle, before, after)
    found = (
        *_of_faults(record.runs),
        *of_epochs(primaries),
        *growing(processes, memory_growth),
        *leaks(before, after),
        *further,
    )
    whole = Run(
        SOAK,
        "the whole soak",
        _HYPOTHESIS,
        max((run.round for run in record.runs), default=1),
        "",
        "failed" if found else "passed",
        figures=_sums(record.runs),
        violations=found,
        marks=tuple(primaries),
    )
    return replace(record, runs=(*record.runs, whole), processes=processes)


def _of_faults(runs: Sequence[Run]) -> Iterator[Violation]:
    if not runs:
        yield Violation("faults", "at least one fault", "none")


def _sums(runs: Sequence[Run]) -> Figures:
    """The counts of all faults, and the worst times."""
    every = [run.figures for run in runs]
    return Figures(
        sent=sum(each.sent for each in every),
        failed=sum(each.failed for each in every),
        wrong=sum(each.wrong for each in every),
        retried=sum(each.retried or 0 for each in every),
        slowest=max((each.slowest for each in every if each.slowest is not None), default=None),
        longest_gap=max((g for each in every if (g := each.longest_gap) is not None), default=None),
        streams=sum(each.streams for each in every),
        streams_cut=sum(each.streams_cut for each in every),
        streams_moved=sum(each.streams_moved for each in every),
        streams_wrong=sum(each.streams_wrong for each in every),
    )
