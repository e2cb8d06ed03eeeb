"""A soak: random faults for minutes or hours on a cluster with everything switched on.

At its end, what it has left behind is compared with its beginning, and the memory of each process
is judged. That is the record's last run, `soak`; the others are its faults.

Acts: asyncio, shutil, tempfile, time.
"""

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from sidecar.drill.cluster import start
from sidecar.drill.cluster.stage import ClusterStage
from sidecar.drill.conduct import Conditions
from sidecar.drill.environment import environment
from sidecar.drill.objectives import Objectives, ObjectivesByScenario
from sidecar.drill.record import Record, Run
from sidecar.drill.samples import Mark
from sidecar.drill.scenario import Scenario
from sidecar.drill.series import endless
from sidecar.drill.session import MODELS, NOT_STEADY, attempt
from sidecar.drill.soak import (
    features,
    outcome,
    primaries,
    receiver,
    resources,
    tenures,
)
from sidecar.drill.soak.consul_entries import consul_entries, tenures_in_history
from sidecar.drill.soak.policy_changes import PolicyChanges
from sidecar.drill.soak.resource_growth import Inventory, Reading, inventory, leaks
from sidecar.drill.stage.observation import mark_of
from sidecar.drill.stage.waiting import until
from sidecar.local import timeline
from sidecar.runtime.errors import SidecarError, Unavailable
from sidecar.runtime.threads import in_daemon_thread

_READINGS = 360  # of each process in a soak of any length
_FASTEST = 2.0  # seconds between two readings
_WARM_UP = 15.0  # seconds of a steady mesh before the beginning is recorded
_SETTLES = 180.0  # seconds in which what the last faults have left must be gone
_LOOK = 5.0
_KEPT = 20  # runs whose samples are kept: those that failed, and those with a slow request
_SLOW = 10.0  # seconds after which a request is looked at, although nothing failed

# A soak is about what only time shows, on machines that may be busy: `drill run` measures how long
# a failover takes.
OBJECTIVES = ObjectivesByScenario(
    Objectives(detection=120.0, rto=120.0, longest_gap=60.0, wrong_window=30.0, recovered=180.0)
)


@dataclass(frozen=True, slots=True)
class Soak:
    """What is to be run, for how long, and how it is judged.

    Attributes:
        scenarios: of which faults are drawn.
        seconds: no fault begins after that.
        first: the number of the series' first fault that is injected, from 1.
        folder: where the logs go if something was violated.
        objectives: what the runs are judged by.
        conditions: the load, the seed and the limits.
        recorded: called with the record so far after each run, so that nothing is lost.
    """

    scenarios: Sequence[Scenario[Any]]
    seconds: float
    first: int
    folder: Path
    objectives: ObjectivesByScenario
    conditions: Conditions
    recorded: Callable[[Record], None]


async def hold(soak: Soak) -> Record:
    """Run all of it, to the judgement of the whole.

    Raises:
        PartMissing: a program is missing, or network namespaces cannot be created.
        Unavailable: the cluster does not start, or its Consul does not answer at the end.
    """
    soak.conditions.tell("starting a cluster: three Consul servers, three hosts, an edge")
    with tempfile.TemporaryDirectory(prefix="triton-sidecar-soak-") as folder:
        place, clean = Path(folder), False
        try:
            settings = features.settings(receiver.SETTINGS)
            async with start.cluster(
                place, models=MODELS, settings=settings, acl=True, clocks=True
            ) as stage:
                record = await _on(stage, soak)
            clean = record.passed and not any(map(_slow, record.runs))
        finally:
            if not clean and (place / "logs").is_dir():
                shutil.copytree(place / "logs", soak.folder / "logs", dirs_exist_ok=True)
    soak.recorded(record)
    return record


@dataclass(slots=True)
class _Watch:
    """What is seen during the whole of it. Times are on the monotonic clock."""

    began: float = field(default_factory=time.monotonic)
    readings: list[Reading] = field(default_factory=list)
    primaries: list[Mark] = field(default_factory=list)


async def _on(stage: ClusterStage, soak: Soak) -> Record:
    conditions = soak.conditions
    about = environment(await stage.surroundings(), conditions.seed, str(conditions.load))
    record = Record(about, soak.objectives.named())
    policies, kept = PolicyChanges(stage, conditions.seed), stage.folder / "notifications.jsonl"
    async with receiver.receiver(stage, kept) as receiving:
        await policies.begin()
        await asyncio.sleep(_WARM_UP)
        before = await _inventory(stage)
        async with _watched(stage, soak.seconds) as watch:
            record = await _faults(stage, soak, record, policies)
        soak.conditions.tell("waiting until nothing is left of the faults")
        after = await _settled(stage, before)
        found = (
            *policies.violations(),
            *await primaries.violations(
                partial(tenures_in_history, stage),
                receiving.received,
                watch.primaries,
                tenures.marked(record.runs),
            ),
            *receiving.violations(),
        )
    growth = soak.objectives.general.memory_growth
    return outcome.judged(record, watch.readings, watch.primaries, growth, before, after, found)


async def _faults(
    stage: ClusterStage, soak: Soak, record: Record, policies: PolicyChanges
) -> Record:
    """Inject one fault after another until the time is over."""
    ends = time.monotonic() + soak.seconds
    possible = [each for each in soak.scenarios if not each.needs - stage.offers]
    drawn = islice(endless(soak.conditions.seed, possible), soak.first - 1, None)
    for number, scenario in enumerate(drawn, soak.first):
        if time.monotonic() >= ends:
            break
        soak.conditions.tell(f"fault {number}: {scenario.name}")
        objectives = soak.objectives.of(scenario.name)
        async with policies.during(scenario, number):
            made = await attempt(stage, scenario, objectives, soak.conditions, number)
        run = outcome.with_all_failures(made)
        _tell(soak, run)
        record = replace(record, runs=(*record.runs, _kept(record, run)))
        soak.recorded(record)
        if run.code == NOT_STEADY:
            break
    return record


def _tell(soak: Soak, run: Run) -> None:
    found = [
        f"{each.code}: expected {each.expected}, found {each.found}" for each in run.violations
    ]
    soak.conditions.tell(
        "; ".join([f"fault {run.round}: {run.status}", *found, run.reason]).rstrip("; ")
    )


def _kept(record: Record, run: Run) -> Run:
    """The run as it stays in memory: samples are many, and pictures are made of few."""
    with_samples = sum(bool(each.samples) for each in record.runs)
    keep = (run.status != "passed" or _slow(run)) and with_samples < _KEPT
    return run if keep else replace(run, samples=())


def _slow(run: Run) -> bool:
    return (run.figures.slowest or 0.0) > _SLOW


@asynccontextmanager
async def _watched(stage: ClusterStage, seconds: float) -> AsyncIterator[_Watch]:
    """Take readings of all processes, and follow the lock, while the context lasts."""
    watch = _Watch()
    pause = max(_FASTEST, seconds / _READINGS)
    async with timeline.follow(stage.now, traffic=False) as seen:
        reading = asyncio.create_task(_read_repeatedly(stage, watch, pause))
        try:
            yield watch
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading
            watch.primaries = [
                mark
                for one in seen.sightings
                if one.kind == "primary" and (mark := mark_of(one, watch.began))
            ]


async def _read_repeatedly(stage: ClusterStage, watch: _Watch, pause: float) -> None:
    while True:
        watch.readings += await _readings(stage, time.monotonic() - watch.began)
        await asyncio.sleep(pause)


async def _readings(stage: ClusterStage, at: float) -> tuple[Reading, ...]:
    parts = {part: stage.running(part) for part in stage.parts}
    return await in_daemon_thread(
        lambda: resources.read(stage.layout.mesh.id, parts, at), "resources"
    )


async def _inventory(stage: ClusterStage) -> Inventory:
    prefixes = [part.shm_prefix for _, part in stage.layout.parts if part.shm_prefix]
    return inventory(
        await _readings(stage, 0.0),
        resources.shared_memory(prefixes),
        await consul_entries(stage),
    )


async def _settled(stage: ClusterStage, before: Inventory) -> Inventory:
    """What exists once there is no more than before, or after the settling time.

    Raises:
        Unavailable, Rejected: Consul has not answered in all that time.
    """
    found: Inventory | None = None

    async def clean() -> bool:
        nonlocal found
        with suppress(SidecarError):  # such as a mesh that is still unhealthy
            found = await _inventory(stage)
            return not any(leaks(before, found))
        return False

    with suppress(Unavailable):
        await until(clean, "nothing left of the faults", patience=_SETTLES, pause=_LOOK)
    return found or await _inventory(stage)
