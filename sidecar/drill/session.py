"""A session of drills: the runs of one command in order, and the record of all of them.

Acts: asyncio, signal, tempfile.
"""

import asyncio
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from sidecar.drill import misbehaving_models
from sidecar.drill.cluster import start
from sidecar.drill.conduct import Conditions, conduct
from sidecar.drill.environment import environment
from sidecar.drill.live import precheck
from sidecar.drill.live import scenarios as live_scenarios
from sidecar.drill.live.precheck import DrillRefused
from sidecar.drill.live.stage import LiveStage
from sidecar.drill.objectives import Objectives, ObjectivesByScenario
from sidecar.drill.record import Record, Run, Status
from sidecar.drill.scenario import Scenario
from sidecar.drill.stage.api import Stage
from sidecar.drill.stage.mesh import MeshStage
from sidecar.injection.rules import Code
from sidecar.local.programs import parts
from sidecar.runtime.errors import Interrupted, SidecarError

NOT_STEADY = "not_steady"
MODELS = (
    *start.MODELS,
    misbehaving_models.UNARY,
    misbehaving_models.STREAM,
    misbehaving_models.CACHED,
    misbehaving_models.MORTAL,
)
_ENDS = frozenset({NOT_STEADY, *precheck.STAYS})  # codes of runs after which none follows
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_T = TypeVar("_T")
_Scenarios = Sequence[Scenario[Any]]


@dataclass(frozen=True, slots=True)
class Session:
    """What is to be run, on what, and how it is judged.

    Attributes:
        scenarios: in this order; on clusters of the session's own those that set clocks come last,
            because what sets clocks would slow down the others as well.
        rounds: how often; all scenarios of a cluster come before its next round.
        mesh: the folder of a running mesh, or None for a cluster of the session's own.
        live: a live mesh, instead of either.
        objectives: what the runs are judged by.
        conditions: the load, the seed and the limits.
        recorded: called with the record so far after each run, so that nothing is lost.
    """

    scenarios: Sequence[Scenario[Any]]
    rounds: int
    mesh: Path | None
    objectives: ObjectivesByScenario
    conditions: Conditions
    recorded: Callable[[Record], None]
    live: LiveStage | None = None


async def hold(session: Session) -> Record:
    """Run all of it.

    A mesh that does not come into its steady state ends the session, because whatever followed
    would say nothing about its own fault.

    Raises:
        ConfigError: no mesh is running in the folder.
        PartMissing: a program is missing, or network namespaces cannot be created.
        Unavailable: the cluster does not start.
    """
    first, *others = _by_cluster(session)
    async with _stage(session, first) as stage:
        conditions = session.conditions
        about = environment(await stage.surroundings(), conditions.seed, str(conditions.load))
        record = Record(about, session.objectives.named())
        record = await _rounds(stage, first, session, record)
    for chosen in others:
        if _is_over(record):
            break
        async with _stage(session, chosen) as stage:
            record = await _rounds(stage, chosen, session, record)
    return record


async def _rounds(stage: Stage, chosen: _Scenarios, session: Session, record: Record) -> Record:
    """The record with the runs of some scenarios on one stage."""
    for number in range(1, session.rounds + 1):
        for scenario in chosen:
            run = await _run(stage, scenario, session, number)
            record = replace(record, runs=(*record.runs, run))
            session.recorded(record)
            if _is_over(record):
                return record
    return record


def _is_over(record: Record) -> bool:
    """Whether no run may follow the last one."""
    return bool(record.runs) and record.runs[-1].code in _ENDS


def _by_cluster(session: Session) -> Sequence[_Scenarios]:
    """The scenarios by the stage on which they run, at least one.

    Where clocks cannot be set anyway, no cluster is started for them.
    """
    own = session.live is None and session.mesh is None
    if not own or parts.faketime() is None:
        return (session.scenarios,)
    setting = [each for each in session.scenarios if "clock" in each.needs]
    others = [each for each in session.scenarios if "clock" not in each.needs]
    return tuple(filter(None, (others, setting))) or (session.scenarios,)


async def interruptible(work: Coroutine[Any, Any, _T]) -> _T:
    """Do it; Ctrl-C, SIGTERM and a lost terminal cancel it, which removes the present fault.

    A signal that this process ignores, as with nohup, stays ignored.

    Raises:
        Interrupted: one of them came.
        SidecarError: the fault could not be removed.
    """
    task, loop = asyncio.ensure_future(work), asyncio.get_running_loop()
    heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    for number in heeded:
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise Interrupted("interrupted; no fault is left") from None
    finally:
        for number in heeded:
            loop.remove_signal_handler(number)


@asynccontextmanager
async def _stage(session: Session, chosen: _Scenarios) -> AsyncIterator[Stage]:
    if session.live is not None:
        yield session.live
        return
    if session.mesh is not None:
        yield MeshStage(session.mesh)
        return
    session.conditions.tell("starting a cluster: three Consul servers, three hosts, an edge")
    with tempfile.TemporaryDirectory(prefix="triton-sidecar-drill-") as folder:
        clocks = any("clock" in scenario.needs for scenario in chosen)
        async with start.cluster(Path(folder), models=MODELS, clocks=clocks) as stage:
            yield stage


async def _run(stage: Stage, scenario: Scenario[Any], session: Session, number: int) -> Run:
    if session.live:  # without any load, if it is not permitted
        why = live_scenarios.refusal(await session.live.status(), scenario)
        if why:
            status: Status = "skipped" if why.code == Code.NOT_PERMITTED else "aborted"
            return _unmade(scenario, number, status, why.code, str(why))
    objectives = session.objectives.of(scenario.name)
    return await attempt(stage, scenario, objectives, session.conditions, number)


async def attempt(
    stage: Stage,
    scenario: Scenario[Any],
    objectives: Objectives,
    conditions: Conditions,
    number: int,
) -> Run:
    """Run a scenario once; a mesh that is not steady before it is a run with that code."""
    try:
        return await conduct(stage, scenario, objectives, conditions, number)
    except DrillRefused as error:
        return _unmade(scenario, number, "aborted", error.code, str(error))
    except SidecarError as error:
        return _unmade(scenario, number, "aborted", NOT_STEADY, str(error))


def _unmade(scenario: Scenario[Any], number: int, status: Status, code: str, reason: str) -> Run:
    title, hypothesis = scenario.title, scenario.hypothesis
    return Run(scenario.name, title, hypothesis, number, "", status, code, reason)
