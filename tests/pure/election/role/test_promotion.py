"""A cold standby's promotion, on a fake Triton and a manual clock."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from sidecar.election.role.promotion import ColdModels, Phase, Promotion, PromotionCells
from sidecar.election.rules import PromotionRules
from sidecar.events import Event, Promoted
from sidecar.runtime.errors import NotAdmitted, Rejected, Unavailable
from sidecar.runtime.latest import Latest
from sidecar.settings.tables.election import ElectionSettings
from sidecar.triton.api import ModelDescription
from tests.support.fake_triton import FakeModel, FakeTriton
from tests.support.prober_bench import probing
from tests.support.rewording import any_words as any_words
from tests.support.virtual_clock import VirtualClock, settle

LOST = "the role was lost in the meantime"

MODELS = ("tokenizer", "chat")


class Scene:
    def __init__(self, loaded: bool, **settings: object) -> None:
        self.clock = VirtualClock()
        models = [FakeModel(ModelDescription(name, ("1",)), loaded=loaded) for name in MODELS]
        self.triton = FakeTriton(self.clock, *models)
        self.holds, self.serving = Latest(False), Latest(False)
        self.restarts, self.keeps = Latest(0), Latest(False)
        self.asked, self.drained, self.forgotten, self.wrong = 0, 0, 0, ""
        self.events: list[Event] = []
        self.promotion = Promotion(
            ColdModels(self.triton, MODELS, self._ask, self._verify, self._idle, self._forget),
            PromotionCells(self.holds, self.serving, self.keeps, self.restarts),
            ElectionSettings.model_validate({"standby": "cold", **settings}).rules.promotion,
            self.clock,
            self.events.append,
        )

    async def _ask(self) -> None:
        self.asked += 1

    async def _verify(self) -> str:
        return self.wrong

    def _forget(self) -> None:
        self.forgotten += 1

    async def _idle(self) -> None:
        self.drained += 1

    def is_(self, phase: Phase) -> bool:
        return self.promotion.phase.value is phase

    @property
    def loaded(self) -> list[str]:
        return [name for name, model in self.triton.models.items() if model.loaded]

    async def hold(self, holds: bool) -> None:
        self.holds.set(holds)
        await settle()

    async def prove(self) -> None:
        self.serving.set(True)
        await settle()


@asynccontextmanager
async def scene(*, loaded: bool = False, **settings: object) -> AsyncIterator[Scene]:
    made = Scene(loaded, **settings)
    loop = asyncio.create_task(made.promotion.run())
    await settle()
    try:
        yield made
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)


def outcomes(scene: Scene) -> list[str]:
    return [event.error for event in scene.events if isinstance(event, Promoted)]


async def test_models_are_loaded_in_order_warmed_up_and_proven() -> None:
    async with scene(warm_up=3) as it:
        assert it.is_(Phase.COLD)
        assert it.loaded == []
        await it.hold(True)
        assert it.triton.orders == ["load tokenizer", "load chat"]
        assert it.is_(Phase.PROVING)
        assert (it.asked, outcomes(it)) == (3, [])
        await it.prove()
        assert it.is_(Phase.WARM)
        assert outcomes(it) == [""]


async def test_while_they_load_it_is_loading() -> None:
    async with scene() as it:
        it.triton.models["chat"].load_delay = 30.0
        await it.hold(True)
        await it.clock.advance(29)
        assert it.is_(Phase.LOADING)
        await it.clock.advance(2)
        assert it.is_(Phase.PROVING)


async def test_an_instance_that_cannot_load_yields_and_is_a_candidate_again_later() -> None:
    async with scene(promotion_pause="5m") as it:
        it.triton.models["chat"].load_error = Rejected("chat: no such file")
        await it.hold(True)
        assert it.is_(Phase.FAILED)
        assert "no such file" in it.promotion.why
        await it.hold(False)
        assert it.loaded == []
        await it.clock.advance(299)
        assert it.is_(Phase.FAILED)
        await it.clock.advance(2)
        assert it.is_(Phase.COLD)
        assert it.promotion.why == ""


async def test_an_instance_that_may_not_query_the_loaded_models_reports_it_on_loading() -> None:
    made = Scene(loaded=False)
    made.triton.index_error = refused = NotAdmitted("UNAVAILABLE: This protocol is restricted")
    made.triton.models["tokenizer"].load_error = refused
    loop = asyncio.create_task(made.promotion.run())
    await settle()
    await made.hold(True)
    assert made.is_(Phase.FAILED)
    assert made.promotion.why == f"its promotion failed: {refused}"
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)


async def test_an_instance_that_is_not_proven_in_time_yields() -> None:
    async with scene(promotion_timeout="60s") as it:
        await it.hold(True)
        await it.clock.advance(61)
        assert it.is_(Phase.FAILED)
        assert outcomes(it) == ["timed out after 60 s"]


async def test_an_instance_that_has_loaded_another_set_yields() -> None:
    async with scene() as it:
        it.wrong = "it has loaded the model set files-1, expected files-2"
        await it.hold(True)
        await it.prove()
        assert it.is_(Phase.FAILED)
        assert outcomes(it) == [it.wrong]


async def test_the_role_may_be_lost_while_models_load() -> None:
    async with scene() as it:
        it.triton.models["chat"].load_delay = 30.0
        await it.hold(True)
        await it.hold(False)
        await it.clock.advance(31)
        assert outcomes(it) == [LOST]
        assert it.loaded == []


async def test_losing_the_role_is_not_a_failed_promotion() -> None:
    async with scene(promotion_pause="5m") as it:
        it.triton.models["chat"].load_delay = 30.0
        await it.hold(True)
        await it.clock.advance(10)
        await it.hold(False)
        assert it.is_(Phase.COLD)
        assert it.promotion.why == ""
        await it.hold(True)
        assert it.is_(Phase.LOADING)
        await it.clock.advance(31)
        await it.prove()
        assert outcomes(it) == [LOST, ""]
        assert it.loaded == list(MODELS)


async def test_a_model_that_could_not_be_unloaded_is_retried_and_reported_once() -> None:
    async with scene(unload=True) as it:
        await it.hold(True)
        await it.prove()
        it.triton.error = Unavailable("Triton: no answer")
        await it.hold(False)
        await it.clock.advance(100)
        assert it.is_(Phase.COLD)
        assert (it.loaded, it.forgotten) == (list(MODELS), 0)
        stay = [f"{name} stays loaded: Triton: no answer" for name in reversed(MODELS)]
        assert outcomes(it) == ["", *stay]
        it.triton.error = None
        await it.clock.advance(30)
        assert (it.loaded, it.forgotten) == ([], 1)


async def test_an_instance_that_takes_the_role_again_stops_unloading() -> None:
    async with scene(unload=True) as it:
        await it.hold(True)
        await it.prove()
        it.triton.error = Unavailable("Triton: no answer")
        await it.hold(False)
        it.triton.error = None
        await it.hold(True)
        assert it.triton.orders == ["load tokenizer", "load chat"] * 2
        await it.clock.advance(100)
        assert it.loaded == list(MODELS)


async def test_an_instance_that_takes_the_role_again_before_it_unloads_is_promoted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with probing() as bench:
        prober, events = bench.prober, list[Event]()
        holds, serving = Latest(True), Latest(False)

        async def verify() -> str:  # takes a while, as the comparison of model sets does
            async for identity in prober.identity:
                if identity.models:
                    return ""
            raise AssertionError("a cell has no end")

        async def unload_model(model: str, timeout: float) -> None:
            raise Unavailable("Triton: no answer")

        promotion = Promotion(
            ColdModels(bench.triton, ("chat",), settle, verify, settle, prober.forget_identity),
            PromotionCells(holds, serving, Latest(False), prober.assessment.restarts),
            PromotionRules(unload=True),
            bench.clock,
            events.append,
        )
        loop = asyncio.create_task(promotion.run())
        await bench.pass_(1)
        phases = [promotion.phase.value]
        monkeypatch.setattr(bench.triton, "unload_model", unload_model)
        holds.set(False)
        await bench.pass_(0.5)
        phases.append(promotion.phase.value)
        holds.set(True)
        serving.set(True)
        await bench.pass_(2)
        assert [*phases, promotion.phase.value] == [Phase.WARM, Phase.COLD, Phase.WARM]
        errors = [event.error for event in events if isinstance(event, Promoted)]
        assert errors == ["chat stays loaded: Triton: no answer", ""]
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)


async def test_a_triton_that_refuses_to_unload_is_queried_once() -> None:
    async with scene(unload=True) as it:
        await it.hold(True)
        await it.prove()
        it.triton.error = Rejected("UNAVAILABLE: explicit model load / unload is not allowed")
        await it.hold(False)
        assert (it.forgotten, len(outcomes(it))) == (1, 3)


async def test_without_the_role_models_stay_or_are_unloaded_when_the_requests_are_done() -> None:
    for unload in (False, True):
        async with scene(unload=unload) as it:
            await it.hold(True)
            await it.prove()
            await it.hold(False)
            assert it.is_(Phase.COLD if unload else Phase.WARM)
            assert it.loaded == ([] if unload else ["tokenizer", "chat"])
            assert it.drained == it.forgotten == unload


async def test_nothing_is_unloaded_during_a_handover() -> None:
    """The role is released first: the next primary has to load its models."""
    async with scene(unload=True) as it:
        await it.hold(True)
        await it.prove()
        it.keeps.set(True)
        await it.hold(False)
        assert it.is_(Phase.WARM)
        assert it.drained == 0
        it.keeps.set(False)
        await settle()
        assert it.is_(Phase.COLD)
        assert (it.loaded, it.drained) == ([], 1)


async def test_a_standby_with_loaded_models_starts_warm() -> None:
    async with scene(loaded=True) as it:
        assert it.is_(Phase.WARM)
        await it.hold(True)
        assert it.triton.orders == []


async def test_a_standby_whose_triton_restarted_is_cold_again() -> None:
    async with scene(loaded=True) as it:
        for model in it.triton.models.values():
            model.loaded = model.ready = False
        it.restarts.set(1)
        await settle()
        assert it.is_(Phase.COLD)
