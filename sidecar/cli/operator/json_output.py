"""Prints the answers of the operator's verbs as JSON: one object each, whatever happens."""

import dataclasses
import json
from collections.abc import Sequence
from datetime import UTC, datetime

from sidecar.election.keys.history import Entry
from sidecar.election.keys.orders import Order, Pause
from sidecar.operator import service_status
from sidecar.operator.operator_client import History
from sidecar.operator.order_progress import Moved, Step
from sidecar.operator.plans import FailoverPreview
from sidecar.operator.service_status import ServiceStatus


def failure(why: str) -> None:
    """Why nothing was done."""
    _print(done=False, why=why)


def situation(seen: ServiceStatus) -> None:
    """The answer of `list`."""
    state = seen.state
    outcome = state.outcome
    _print(
        done=True,
        service=seen.service,
        primary=seen.primary,
        epoch=state.lock.epoch,
        model_set=seen.reference,
        paused=_pause(state.pause) if state.paused(seen.wall) else None,
        order=_order(seen.pending),
        outcome={**dataclasses.asdict(outcome), "at": iso(outcome.at)} if outcome else None,
        unreadable=state.garbage,
        drill=_drill(seen),
        instances=[dataclasses.asdict(row) for row in service_status.rows(seen)],
    )


def history(found: History) -> None:
    """The answer of `history`."""
    drills = [dataclasses.asdict(drill) for drill in found.drills]
    _print(done=True, history=[_entry(entry) for entry in found.entries], drills=drills)


def _entry(entry: Entry) -> dict[str, object]:
    return {
        "at": entry.at,
        "from": entry.by or None,
        "to": entry.to,
        "epoch": entry.epoch,
        "cause": entry.cause,
        "model_set": entry.model_set,
        "without_primary_seconds": entry.without,
        "requests": entry.requests,
        "failed": entry.failed,
        "counted_seconds": entry.over,
    }


def paused(new: Pause, old: Pause | None) -> None:
    """The answer of `pause`."""
    _print(done=True, paused=_pause(new), replaced=_pause(old))


def resumed(old: Pause | None) -> None:
    """The answer of `resume`."""
    _print(done=True, ended=_pause(old))


def flushed(cancelled: str | None) -> None:
    """The answer of `flush switchover`."""
    _print(done=True, cancelled=cancelled)


class MoveObject:
    """The answer of `switchover` or `failover`: one object at its end, with all steps."""

    def __init__(self) -> None:
        self._lost: Sequence[str] = ()
        self._steps: list[Step] = []

    def failure(self, why: str) -> None:
        """The move was refused or has failed."""
        _print(done=False, why=why, **self._details())

    def lost(self, lost: Sequence[str]) -> None:
        """What the move loses or overrides."""
        self._lost = lost

    def scheduled(self, order: Order) -> None:
        """The move is scheduled."""
        _print(done=True, order=_order(order))

    def step(self, step: Step) -> None:
        """A step of the move."""
        self._steps.append(step)

    def moved(self, moved: Moved) -> None:
        """The role has moved."""
        cost = dataclasses.asdict(moved.cost) if moved.cost else None
        found = {"primary": moved.primary, "epoch": moved.epoch, "cost": cost}
        _print(done=True, **found, counted_seconds=moved.over, **self._details())

    def foresight(self, foreseen: FailoverPreview) -> None:
        """The expected result of a failover."""
        why = foreseen.refusal or ("" if foreseen.winner else "no instance would win")
        reason = {"why": why} if why else {}
        _print(done=not why, dry_run=True, **reason, **dataclasses.asdict(foreseen))

    def _details(self) -> dict[str, object]:
        return {"lost": self._lost, "steps": [dataclasses.asdict(step) for step in self._steps]}


def iso(seconds: float | None) -> str | None:
    """Unix seconds as ISO 8601 in UTC."""
    if seconds is None:
        return None
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _order(order: Order | None) -> dict[str, object] | None:
    return {**dataclasses.asdict(order), "at": iso(order.at)} if order else None


def _drill(seen: ServiceStatus) -> dict[str, object] | None:
    drill = seen.drill
    return {**dataclasses.asdict(drill), "since": iso(drill.since)} if drill else None


def _pause(pause: Pause | None) -> dict[str, object] | None:
    if pause is None:
        return None
    return {**dataclasses.asdict(pause), "since": iso(pause.since), "until": iso(pause.until)}


def _print(**document: object) -> None:
    print(json.dumps(document, indent=2))
