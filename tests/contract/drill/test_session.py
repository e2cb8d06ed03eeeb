"""A session of drills on a live mesh that an operator has to change first."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from sidecar.consul.api import Set
from sidecar.drill.cluster import start
from sidecar.drill.conduct import Conditions
from sidecar.drill.live.scenarios import on_live_mesh
from sidecar.drill.live.stage import Entrance, LiveStage
from sidecar.drill.load.spec import OpenLoop
from sidecar.drill.objectives import ObjectivesByScenario
from sidecar.drill.record import Record
from sidecar.drill.scenario import Need
from sidecar.drill.scenarios.catalog import select
from sidecar.drill.session import Session, hold
from sidecar.election.keys import lock, orders
from sidecar.election.keys.orders import Pause
from sidecar.injection.rules import Code
from sidecar.local.programs import parts
from tests.support.drill_scene import SERVICE, ModelledScene, drill_scene
from tests.support.fake_stage import FakeStage

pytestmark = pytest.mark.contract


async def held(scene: ModelledScene, *names: str) -> Record:
    """The record of a session; time does not pass meanwhile."""
    stage = LiveStage(scene.operator(), Entrance("edge:8001", (), Path("load.log")))
    conditions = Conditions(OpenLoop(10, 0), seed=1)
    objectives, chosen = ObjectivesByScenario(), on_live_mesh(select(names))
    session = Session(chosen, 1, None, objectives, conditions, lambda record: None, stage)
    return await asyncio.wait_for(hold(session), 60)


async def test_a_paused_mesh_is_refused_at_once_and_ends_the_session() -> None:
    async with drill_scene() as scene:
        pause = Pause(scene.clock.wall(), "joe@desk")
        await scene.consul.transact(Set(orders.pause_key(SERVICE), lock.dumps(pause)))
        [run] = (await held(scene, "freeze", "crash")).runs
    assert (run.scenario, run.status, run.code) == ("freeze", "aborted", Code.PAUSED)


async def test_a_mesh_in_maintenance_is_refused_at_once() -> None:
    async with drill_scene() as scene:
        await scene.consul.maintain_service("b", "a new kernel")
        [run] = (await held(scene, "switchover", "crash")).runs
    assert (run.status, run.code) == ("aborted", Code.MAINTENANCE)
    assert "b" in run.reason


async def test_what_is_not_permitted_is_skipped_and_the_rest_goes_on() -> None:
    async with drill_scene(a=frozenset()) as scene:
        runs = (await held(scene, "freeze", "crash")).runs
    assert [(each.status, each.code) for each in runs] == [("skipped", Code.NOT_PERMITTED)] * 2


@pytest.mark.parametrize(
    ("library", "expected"),
    [(Path("library.so"), [(False, ["a", "c"]), (True, ["b"])]), (None, [(True, ["a", "b", "c"])])],
)
async def test_clocks_are_set_in_a_separate_cluster_if_they_can_be(
    monkeypatch: pytest.MonkeyPatch, library: Path | None, expected: list[tuple[bool, list[str]]]
) -> None:
    started: list[tuple[bool, list[str]]] = []
    recorded: list[Record] = []

    @asynccontextmanager
    async def cluster(folder: Path, *, clocks: bool, **_: object) -> AsyncIterator[FakeStage]:
        before = len(recorded)
        yield FakeStage()
        names = [run.scenario for run in recorded[-1].runs[before:]]
        started.append((clocks, names))

    monkeypatch.setattr(start, "cluster", cluster)
    monkeypatch.setattr(parts, "faketime", lambda: library)
    needs: Mapping[str, Need] = {"a": "hosts", "b": "clock", "c": "hosts"}
    scenario = FakeStage().scenario()
    chosen = [replace(scenario, name=name, needs=frozenset({need})) for name, need in needs.items()]
    conditions = Conditions(OpenLoop(10, 0), seed=1)
    session = Session(chosen, 1, None, ObjectivesByScenario(), conditions, recorded.append)
    await hold(session)
    assert started == expected
