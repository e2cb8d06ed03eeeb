"""The outcome of a fault in a cluster under load, and what of it is a failure."""

import base64
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sidecar.local.load import Load
from sidecar.local.planning.plan import SERVICE
from sidecar.local.timeline import Sighting
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.faults import Fault
from tests.support.mesh.mesh import Scene


@dataclass(slots=True)
class FaultOutcome:
    """A fault of `victim`, and its outcome until the cluster was healthy again.

    `began` and `ended` are seconds on the monotonic clock; `before` is the epoch before the fault.
    `crashed` are the parts that crashed during it for other reasons. Triton 2.51 sometimes does
    when a stream ends (SIGSEGV in its gRPC front end), which cuts streams, and nothing else.
    """

    fault: Fault
    victim: str
    before: int
    began: float
    ended: float = 0.0
    crashed: list[str] = field(default_factory=list)
    changes: list[Sighting] = field(default_factory=list)
    load: Load = field(default_factory=Load)

    @property
    def trouble(self) -> list[str]:
        """What must not happen: failed and wrong requests, and epochs that do not grow."""
        unary, streams = self.load.unary, self.load.streams
        bad = [*unary.failed, *unary.wrong, *streams.wrong]
        crashed = any(part.startswith("triton") for part in self.crashed)
        bad += [] if self.fault.cuts_streams or crashed else streams.failed
        found = [f"after {one.at - self.began:.2f} s a client got {one.what}" for one in bad]
        epochs = [self.before, *(int(change.value) for change in self.changes)]
        if epochs != sorted(set(epochs)):
            found.append(f"expected epochs that grow, saw {epochs}")
        return found

    def __str__(self) -> str:
        changed = [f"{one.instance} after {one.at - self.began:.2f} s" for one in self.changes]
        unary, streams = self.load.unary, self.load.streams
        crashes = "".join(f" {part} crashed;" for part in self.crashed)
        return (
            f"{self.fault.name} ({self.victim}):{crashes} "
            f"primary {', '.join(changed) or 'unchanged'}; "
            f"healthy after {self.ended - self.began:.1f} s; {unary.sent} requests, "
            f"{len(unary.failed)} failed, {len(unary.wrong)} wrong, slowest {unary.slowest:.2f} s; "
            f"{len(streams.failed)} of {streams.sent} streams cut"
        )


async def inject(
    mesh: Cluster, scene: Scene, fault: Fault, victim: str, seconds: float
) -> FaultOutcome:
    """Inject a fault, and wait until the cluster is healthy and all clients get answers."""
    outcome = FaultOutcome(fault, victim, scene.timeline.epoch, time.monotonic())
    crashes = mesh.crashes
    await fault.deed(mesh, victim, seconds)
    await mesh.steady()
    await scene.flows()
    await mesh.steady()  # the agent's checks lag behind
    outcome.ended = time.monotonic()
    outcome.crashed = [part for part, count in mesh.crashes.items() if count > crashes[part]]
    outcome.changes = [
        one for one in scene.timeline.sightings if one.kind == "primary" and one.at >= outcome.began
    ]
    span = outcome.began, outcome.ended
    outcome.load = Load(scene.load.unary.between(*span), scene.load.streams.between(*span))
    print(outcome)
    return outcome


async def unexplained_changes(mesh: Cluster, outcomes: Sequence[FaultOutcome]) -> list[str]:
    """The changes of the primary that the election's history does not explain.

    An empty history explains nothing and is ignored: it has not been written yet.
    """
    entries = {entry["epoch"]: entry for entry in await _history(mesh)}
    found = []
    for change in (change for outcome in outcomes for change in outcome.changes if entries):
        entry = entries.get(int(change.value), {})
        if entry.get("to") != change.instance or not entry.get("cause"):
            found.append(f"{change.instance} took epoch {change.value}; the history has {entry}")
    return found


async def _history(mesh: Cluster) -> list[Mapping[str, Any]]:
    """The history's entries, each with its `epoch`, the index at which Consul created it."""
    listed = json.loads(await mesh.consul("GET", "kv/?keys"))
    prefix = f"triton-sidecar/{SERVICE}/history/"
    if not any(key.startswith(prefix) for key in listed):
        return []
    stored = json.loads(await mesh.consul("GET", f"kv/{prefix}?recurse"))
    return [
        json.loads(base64.b64decode(one["Value"])) | {"epoch": one["CreateIndex"]} for one in stored
    ]
