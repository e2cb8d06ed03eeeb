"""Whether there was one primary at any time: all that claim the role against its history. Pure.

The transaction that takes the lock writes the history, so that has exactly one entry for each
tenure, and its epoch.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sidecar.drill.record import Run, Violation
from sidecar.drill.samples import Mark


@dataclass(frozen=True, slots=True, order=True)
class Tenure:
    """An instance that is primary in an epoch."""

    epoch: int
    instance: str

    def __str__(self) -> str:
        return f"{self.instance} in epoch {self.epoch}"


def of_marks(marks: Iterable[Mark]) -> tuple[Tenure, ...]:
    """What was seen of the lock, and of what control planes published and Envoys accepted."""
    return tuple(
        Tenure(mark.epoch, mark.instance)
        for mark in marks
        if mark.event in ("primary", "published", "acked") and mark.epoch
    )


def marked(runs: Iterable[Run]) -> tuple[Tenure, ...]:
    """The same, of all runs."""
    return tuple(tenure for run in runs for tenure in of_marks(run.marks))


def contradictions(history: Sequence[Tenure], claims: Sequence[Tenure]) -> Iterator[Violation]:
    """Two instances in one epoch, and claims of epochs in which nobody had taken the role.

    Args:
        history: one tenure for each entry in Consul. Consul keeps the newest ones.
        claims: what instances, control planes and Envoys said, in any order.
    """
    holders: dict[int, str] = {}
    for each in sorted(history):
        if holders.setdefault(each.epoch, each.instance) != each.instance:
            yield Violation("primaries", f"{holders[each.epoch]} alone", str(each))
            return
    oldest = min(holders, default=0)
    for claim in sorted(claims):
        if claim.epoch >= oldest and holders.get(claim.epoch) != claim.instance:
            holder = holders.get(claim.epoch, "no instance")
            yield Violation("primaries", f"{holder} in epoch {claim.epoch}", f"{claim.instance}")
            return
