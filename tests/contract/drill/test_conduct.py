"""The conduct of a run: the fault is removed whatever happens, and what was seen is kept."""

import asyncio
from dataclasses import replace
from typing import Any, cast

import pytest

from sidecar.drill.conduct import Conditions, conduct
from sidecar.drill.live.precheck import DrillRefused
from sidecar.drill.load.spec import ClosedLoop
from sidecar.drill.objectives import Objectives
from sidecar.drill.record import Run, Violation
from sidecar.drill.scenario import Need, Violated
from sidecar.drill.session import interruptible
from sidecar.drill.stage.api import Stage
from sidecar.drill.stop_conditions import Bounds
from sidecar.runtime.errors import Interrupted, Rejected, Unavailable
from tests.support.fake_stage import FakeStage

pytestmark = pytest.mark.contract
ENDLESS = 3600.0  # seconds


async def run(stage: FakeStage, lasts: float = 0.0, **conditions: Any) -> Run:
    made = Conditions(ClosedLoop(1, 1), seed=0, **conditions)
    scenario = stage.scenario(lasts)
    return await conduct(cast("Stage", stage), scenario, Objectives(), made, 1)


async def test_a_run_is_judged_and_has_what_was_seen() -> None:
    stage = FakeStage()
    made = await run(stage)
    assert (made.status, made.violations, made.victim) == ("passed", (), "a")
    assert [mark.event for mark in made.marks] == ["injected", "restored", "recovered"]
    assert (stage.removed, made.figures.failed) == (1, 0)
    assert made.samples


@pytest.mark.parametrize("needs", [frozenset[Need](), frozenset[Need]({"cache"})])
async def test_a_load_asks_for_cached_answers_where_they_are_the_subject(
    needs: frozenset[Need],
) -> None:
    stage = FakeStage()
    stage.offers |= needs
    scenario = replace(stage.scenario(), needs=needs)
    conditions = Conditions(ClosedLoop(1, 1), seed=0)
    await conduct(cast("Stage", stage), scenario, Objectives(), conditions, 1)
    assert stage.cached is bool(needs)


async def test_what_is_skipped_names_what_it_needs_and_why_that_is_lacking() -> None:
    stage = FakeStage()
    stage.lacking = {"disk": "mount: denied"}
    scenario = replace(stage.scenario(), needs=frozenset[Need]({"clock", "disk"}))
    conditions = Conditions(ClosedLoop(1, 1), seed=0)
    made = await conduct(cast("Stage", stage), scenario, Objectives(), conditions, 1)
    assert (made.status, made.code) == ("skipped", "needs")
    assert made.reason == "needs clock, disk (mount: denied)"


async def test_a_fault_that_is_ordered_counts_from_when_it_was_caused() -> None:
    stage = FakeStage()
    stage.takes, stage.ago = 0.4, 0.1
    made = await run(stage)
    assert [mark.event for mark in made.marks][:2] == ["ordered", "injected"]
    ordered, injected = made.marks[:2]
    assert (ordered.instance, injected.instance) == ("a", "a")
    assert injected.at - ordered.at > 0.29
    before = sum(each.kind == "unary" and each.ended < injected.at for each in made.samples)
    assert made.figures.sent == sum(each.kind == "unary" for each in made.samples) - before


async def test_a_pause_during_the_run_aborts_it_with_its_code() -> None:
    stage = FakeStage()
    running = asyncio.create_task(run(stage, 0.2))
    await stage.injected.wait()
    stage.unsteady = DrillRefused("paused", "automation is paused")
    made = await running
    assert (made.status, made.code, stage.removed) == ("aborted", "paused", 1)


async def test_a_run_that_is_cancelled_removes_its_fault() -> None:
    stage = FakeStage()
    running = asyncio.create_task(run(stage, ENDLESS))
    await stage.injected.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert stage.removed == 1


async def test_a_fault_that_cannot_be_removed_swallows_no_interruption() -> None:
    stage = FakeStage()
    stage.fails_to_remove = Rejected("stuck")
    running = asyncio.create_task(interruptible(run(stage, ENDLESS)))
    await stage.injected.wait()
    running.cancel()
    with pytest.raises(Interrupted):
        await running
    assert stage.removed == 1


@pytest.mark.parametrize(
    ("attribute", "code", "removed"),
    [("fails_to_inject", "injection_failed", 0), ("fails_to_remove", "removal_failed", 1)],
)
async def test_an_injection_that_fails_ends_the_run_with_its_code(
    attribute: str, code: str, removed: int
) -> None:
    stage = FakeStage()
    setattr(stage, attribute, Rejected("no"))
    made = await run(stage)
    assert (made.status, made.code, stage.removed) == ("aborted", code, removed)
    assert "restored" not in [mark.event for mark in made.marks]


async def test_a_hypothesis_that_the_injection_itself_saw_broken_is_a_violation() -> None:
    stage = FakeStage()
    stage.fails_to_remove = Violated(Violation("victims", "at most 2", "3"))
    made = await run(stage)
    assert (made.status, [each.code for each in made.violations]) == ("failed", ["victims"])


async def test_a_stop_condition_removes_the_fault_and_keeps_its_code() -> None:
    stage = FakeStage()
    stage.fails_to_remove = Rejected("stuck")
    running = asyncio.create_task(run(stage, ENDLESS, bounds=Bounds(least=5, window=0.5)))
    await stage.injected.wait()
    stage.load.outcome = "failed"
    await asyncio.sleep(1.0)
    stage.load.outcome = "answered"
    made = await running
    assert (made.status, made.code, stage.removed) == ("aborted", "error_rate", 1)


async def test_a_load_that_dies_removes_the_fault_and_keeps_what_was_seen() -> None:
    stage = FakeStage()
    running = asyncio.create_task(run(stage, ENDLESS))
    await stage.injected.wait()
    stage.load.broken = Unavailable("died")
    made = await running
    assert (made.status, made.code, stage.removed) == ("aborted", "load_failed", 1)
    assert made.samples


async def test_a_mesh_that_does_not_recover_is_a_violation() -> None:
    stage = FakeStage()
    running = asyncio.create_task(run(stage, 0.2))
    await stage.injected.wait()
    stage.unsteady = Unavailable("b is critical")
    made = await running
    assert (made.status, [each.code for each in made.violations]) == ("failed", ["recovered"])


async def test_without_a_steady_state_nothing_is_injected() -> None:
    stage = FakeStage()
    stage.unsteady = Unavailable("b is critical")
    with pytest.raises(Unavailable):
        await run(stage)
    assert not stage.injected.is_set()
