"""Prints the answers of the operator's verbs as text."""

import time
from collections.abc import Iterator, Sequence

from rich.text import Text

from sidecar.election.keys.history import DrillEntry, Entry
from sidecar.election.keys.orders import Order, Pause
from sidecar.operator import plans, service_status
from sidecar.operator.operator_client import History
from sidecar.operator.order_progress import Moved, Step
from sidecar.operator.plans import FailoverPreview
from sidecar.operator.service_status import Row, ServiceStatus
from sidecar.runtime.terminal import Column, Grid, show

_STYLES = {
    "passing": "green",
    "warning": "yellow",
    "maintenance": "yellow",
    "cold": "cyan",
    "critical": "red",
}
_LIST = (
    Column("id", shortens=True),
    Column("address", worth=1),
    Column("verdict"),
    Column("role"),
    Column("priority", worth=3),
    Column("standby", worth=2),
    Column("model set", worth=4),
    Column("not fit", worth=5, folds=True),
)
_HISTORY = (
    Column("time"),
    Column("from", worth=4, shortens=True),
    Column("to", shortens=True),
    Column("epoch", worth=1),
    Column("cause", worth=5, folds=True),
    Column("without primary", worth=3),
    Column("requests failed", worth=2),
)
_CHANCES = (
    Column("place"),
    Column("id", shortens=True),
    Column("standing", worth=1),
    Column("why not", worth=2, folds=True),
)


def situation(seen: ServiceStatus, wide: bool) -> None:
    """The answer of `list`."""
    for line in _lines(seen):
        print(line)
    grid = Grid(_LIST)
    for row in service_status.rows(seen):
        settles = (
            f", {service_status.settling_text(row.settling_seconds)}"
            if row.settling_seconds
            else ""
        )
        grid.add(
            row.id,
            row.address,
            Text.assemble((row.verdict, _STYLES.get(row.verdict, "")), settles),
            row.role,
            str(row.priority),
            row.standby,
            Text.assemble(row.model_set or "-", (" differs" if row.differs else "", "red")),
            ", ".join(_against(row, seen.primary)),
        )
    if grid.rows:
        show(grid, wide)
    for row in service_status.rows(seen):
        for line in filter(None, (row.reason, row.differs)):
            print(f"{row.id}: {line}")
        for model, reason in row.unusable.items():
            print(f"{row.id}: does not serve the model {model}: {reason}")


def _lines(seen: ServiceStatus) -> Iterator[str]:
    """The lines of `list` above its table."""
    lock, state = seen.state.lock, seen.state
    if seen.primary and lock.last:
        since = lock.last.since
        yield f"{seen.service}: {seen.primary} is primary, epoch {lock.epoch}, since {since}"
    elif lock.session:
        yield f"{seen.service}: the lock or the epoch was edited by hand; its holder repairs it"
    else:
        last = f"; the last one was {lock.last.instance}" if lock.last else ""
        why = f": {lock.last.ended.why}" if lock.last and lock.last.ended else ""
        yield f"{seen.service}: there is no primary{last}{why}"
    if state.pause and state.paused(seen.wall):
        yield f"paused {_of_pause(state.pause)}"
    if drill := seen.drill:
        since = _when(drill.since)
        yield f"a drill runs, by {drill.by} since {since}: {drill.scenario} on {drill.victim}"
    if seen.pending:
        yield f"pending, for {_when(seen.pending.at)}: {plans.describe(seen.pending)}"
    if state.outcome and not state.outcome.done:
        yield f"the last order failed at {_when(state.outcome.at)}: {state.outcome.why}"
    due = [row.id for row in service_status.rows(seen) if row.failback]
    if due:
        yield f"{', '.join(due)}: has a higher priority than the primary, and passes"
    for key in state.garbage:
        yield f"{key} cannot be read"
    if not seen.candidates:
        yield f"Consul lists no instance of {seen.service}; the ACL token may lack read access"


def _against(row: Row, primary: str | None) -> Sequence[str]:
    return () if row.id == primary else row.objections


def history(found: History, wide: bool) -> None:
    """The answer of `history`."""
    if not found.entries:
        print("no instance has been primary yet")
    grid = Grid(_HISTORY)
    for entry in found.entries:
        without = "-" if entry.without is None else f"{entry.without:.3f} s"
        cells = (entry.at, entry.by or "-", entry.to, str(entry.epoch), entry.cause, without)
        grid.add(*cells, _failed(entry))
    if grid.rows:
        show(grid, wide)
    for drill in found.drills:
        print(_drill(drill))


def _drill(drill: DrillEntry) -> str:
    """One drill in a line; under the table, because it has none of its columns."""
    code = f" ({drill.code})" if drill.code and drill.outcome != "done" else ""
    until = f"{drill.outcome}{code} at {drill.ended}" if drill.ended else "no end is recorded"
    return f"{drill.began}  drill by {drill.by}: {drill.scenario} on {drill.victim}, {until}"


def _failed(entry: Entry) -> str:
    if entry.failed is None or entry.requests is None:
        return "-"
    over = "" if entry.over is None else f" over {entry.over:g} s"
    return f"{entry.failed} of {entry.requests}{over}"


def paused(new: Pause, old: Pause | None) -> None:
    """The answer of `pause`."""
    if old:
        print(f"it was paused already {_of_pause(old)}; replaced")
    print(f"paused {_of_pause(new)}; `resume` turns automation on again")


def resumed(old: Pause | None) -> None:
    """The answer of `resume`."""
    print(f"resumed; it was paused {_of_pause(old)}" if old else "automation was not paused")


def flushed(cancelled: str | None) -> None:
    """The answer of `flush switchover`."""
    print(f"cancelled: {cancelled}" if cancelled else "no order is pending")


class MoveLines:
    """The answer of `switchover` or `failover`, line by line.

    `asked`: the prompt has already listed what the move loses. `wide`: tables are not shortened.
    """

    def __init__(self, asked: bool = False, wide: bool = False) -> None:
        self._asked = asked
        self._wide = wide

    def failure(self, why: str) -> None:
        """The move was refused or has failed; standard error says why."""

    def lost(self, lost: Sequence[str]) -> None:
        """What the move loses or overrides."""
        for line in () if self._asked else lost:
            print(f"note: {line}")

    def scheduled(self, order: Order) -> None:
        """The move is scheduled."""
        print(
            f"ordered for {_when(order.at)}: {plans.describe(order)}; `flush switchover` cancels it"
        )

    def step(self, step: Step) -> None:
        """A step of the move."""
        print(f"{step.at:9.3f} s  {step.what}", flush=True)

    def moved(self, moved: Moved) -> None:
        """The role has moved."""
        cost = moved.cost
        if cost is None:
            why = "no control plane counted requests" if moved.over else "stopped waiting"
            print(f"The cost is unknown: {why}.")
            return
        silent = cost.unknown + cost.unmeasured
        missing = f"; {silent} control planes did not report" if silent else ""
        print(f"Of {cost.requests} requests in {moved.over:g} s {cost.failures} failed{missing}.")

    def foresight(self, foreseen: FailoverPreview) -> None:
        """The expected result of a failover."""
        if foreseen.refusal:
            print(f"this would be refused now: {foreseen.refusal}")
        print(f"{foreseen.winner or 'no instance'} would win")
        grid = Grid(_CHANCES)
        for chance in foreseen.chances:
            place = str(chance.place) if chance.place else "-"
            settles = chance.settling_seconds
            standing = service_status.settling_text(settles) if settles else ""
            grid.add(place, chance.id, standing, ", ".join(chance.why))
        if grid.rows:
            show(grid, self._wide)
        self.lost(foreseen.lost)


def _of_pause(pause: Pause) -> str:
    until = "" if pause.until is None else f" until {_when(pause.until)}"
    reason = f": {pause.reason}" if pause.reason else ""
    return f"by {pause.by} since {_when(pause.since)}{until}{reason}"


def _when(seconds: float) -> str:
    """Unix seconds in local time, with the zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(seconds))
