"""Drills in tests: conditions without deadlines, and the election's history of what they did."""

import base64
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from sidecar.drill.conduct import Conditions, conduct
from sidecar.drill.load.spec import ClosedLoop
from sidecar.drill.objectives import Objectives
from sidecar.drill.record import Run, Violation
from sidecar.drill.samples import Mark
from sidecar.drill.scenario import Scenario
from sidecar.drill.stage.mesh import MeshStage
from sidecar.drill.stage.waiting import until
from sidecar.drill.stop_conditions import Bounds
from sidecar.local.planning.plan import SERVICE
from sidecar.runtime.errors import Unavailable
from tests.support.soak import pause

_WRITTEN = 120.0  # seconds until a change is in the history; a failed write is retried within 60
_LATE = frozenset({"detection", "rto", "longest_gap"})
_SETTLES = 0.2  # seconds of undisturbed load: each kind of client has answers before that

# Machines are shared: tests assert outcomes, not how long they took.
UNTIMED = Objectives(
    detection=math.inf,
    rto=math.inf,
    longest_gap=math.inf,
    wrong_window=math.inf,
    recovered=180.0,
)
# Nor does a busy machine abort a run: that the stage is not steady again in time is a violation.
_UNBOUNDED = Bounds(error_rate=1.0, window=120.0, longest=3600.0)


async def drilled(
    stage: MeshStage,
    scenario: Scenario[Any],
    *,
    unary: int = 3,
    streams: int = 2,
    between: float | None = None,
) -> Run:
    """Run a scenario once; prints the outcome.

    Clients wait `between` seconds from an answer to the next request; by default as long as leaves
    room for other tests.
    """
    spec = ClosedLoop(unary, streams, pause(unary) if between is None else between)
    conditions = Conditions(spec, seed=0, tell=print, bounds=_UNBOUNDED)
    run = await conduct(stage, replace(scenario, settles=_SETTLES), UNTIMED, conditions, 1)
    print(run)
    return run


def not_late(run: Run) -> list[Violation]:
    """The violations of a run that a busy machine does not explain: all but those of a time.

    What was never seen was not late. Only a recovery is not waited for beyond its objective.
    """
    return [
        each
        for each in run.violations
        if each.code != "recovered" and (each.code not in _LATE or each.found == "never")
    ]


async def unexplained_changes(stage: MeshStage, runs: Iterable[Run]) -> list[str]:
    """The changes of the primary that the election's history does not explain in time."""
    changes = [
        mark
        for run in runs
        for injected in run.marks if injected.event == "injected"
        for mark in run.marks if mark.event == "primary" and mark.at >= injected.at
    ]  # fmt: skip
    found: list[str] = []

    async def explained() -> bool:
        entries = {entry["epoch"]: entry for entry in await _history(stage)}
        found[:] = _unexplained(changes, entries)
        return not found

    with suppress(Unavailable):
        await until(explained, "", patience=_WRITTEN, pause=0.5)
    return found


def _unexplained(
    changes: Iterable[Mark], entries: Mapping[int, Mapping[str, Any]]
) -> Iterator[str]:
    for change in changes:
        entry = entries.get(change.epoch, {})
        if entry.get("to") != change.instance or not entry.get("cause"):
            yield f"{change.instance} took epoch {change.epoch}; the history has {entry}"


async def _history(stage: MeshStage) -> list[Mapping[str, Any]]:
    """The history's entries, each with its `epoch`, the index at which Consul created it."""
    listed = json.loads(await stage.consul("GET", "kv/?keys"))
    prefix = f"triton-sidecar/{SERVICE}/history/"
    if not any(key.startswith(prefix) for key in listed):
        return []
    stored = json.loads(await stage.consul("GET", f"kv/{prefix}?recurse"))
    return [
        json.loads(base64.b64decode(one["Value"])) | {"epoch": one["CreateIndex"]} for one in stored
    ]
