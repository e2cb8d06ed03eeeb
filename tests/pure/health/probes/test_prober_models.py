"""The prober and the loaded models: reloaded, unloaded, changed, described."""

from dataclasses import replace

import numpy as np
import pytest

from sidecar.health.canary.expectations import Equals
from sidecar.runtime.errors import (
    Rejected,
    Unavailable,
)
from sidecar.triton.api import Answer, ModelDescription, Statistics, Tensor, TensorSpec
from sidecar.verdict.evidence import Reason
from sidecar.verdict.verdict_line import State
from tests.support.prober_bench import (
    SETTINGS,
    TEXT,
    canary,
    demanding,
    load_anew,
    model,
    probing,
    says,
)


async def test_a_model_reloaded_in_place_is_probed_again() -> None:
    async with probing(canaries={}) as bench:
        await bench.pass_(5)
        bench.chat.description = replace(
            bench.chat.description, versions=("2",), outputs=(replace(TEXT, name="other"),)
        )
        bench.chat.statistics = Statistics("chat", "2")
        bench.chat.reply = Answer({"other": says("right").outputs["text"]})
        await bench.pass_(8)
        assert bench.prober.identity.value.models[0].versions == ("2",)
        assert bench.verdict.state is State.PASSING


async def test_answers_from_before_a_reload_are_no_longer_expected() -> None:
    numbers = TensorSpec("score", "FP32", (2,))
    score = model(outputs=(numbers,))
    score.reply = Answer({"score": Tensor("FP32", np.array([1.0, 2.0], np.float32))})
    async with probing(score, canaries={}) as bench:
        await bench.pass_(5)
        score.reply = Answer({"score": Tensor("FP32", np.array([3.0, 4.0], np.float32))})
        score.statistics = Statistics("chat", "1")
        await bench.pass_(10)
        assert bench.verdicts == ["passing OK"]


LONGER = (replace(TEXT, shape=(2,)),)


async def test_a_waiting_canary_is_made_for_the_model_as_it_is_loaded_when_it_is_sent() -> None:
    """Two models share a canary every two seconds, and one is reloaded before its turn."""
    slowly = SETTINGS.model_copy(update={"canary_rate": 0.25, "canary_interval": 8.0})
    both = demanding(model("chat")), model("embed")
    async with probing(*both, canaries={}, settings=slowly) as bench:
        await bench.pass_(30)
        assert bench.verdict.state is State.PASSING
        for number in range(6):
            load_anew(bench.chat, inputs=LONGER if number % 2 == 0 else (TEXT,))
            await bench.pass_(9.1)
        shapes = {each.steps[0]["text"].array.shape for each in bench.chat.asked}
        assert shapes == {(1,), (2,)}
        assert set(bench.found()) == {Reason.OK}


async def test_a_derived_canary_that_no_longer_fits_is_no_evidence() -> None:
    async with probing(demanding(model()), canaries={}) as bench:
        await bench.pass_(5)
        for inputs in (LONGER, (TEXT,), LONGER):
            load_anew(bench.chat, inputs=inputs)
            await bench.pass_(3.2)
        assert bench.verdicts == ["passing OK"]
        assert set(bench.found()) == {Reason.OK}


async def test_a_model_that_fails_after_a_reload_is_critical() -> None:
    async with probing(demanding(model()), canaries={}) as bench:
        await bench.pass_(5)
        load_anew(bench.chat, versions=("2",))
        bench.chat.error = Rejected("INTERNAL: no")
        await bench.pass_(3)
        assert bench.verdict.reason is Reason.CANARY_FAILED


async def test_a_canary_is_judged_against_the_model_as_it_is_loaded() -> None:
    """A canary that does not fit is a mistake in the configuration, not a failure of the model."""
    async with probing(demanding(model())) as bench:
        await bench.pass_(3)
        load_anew(bench.chat, inputs=LONGER)
        await bench.pass_(3)
        assert bench.verdict.reason is Reason.CONFIG
        assert set(bench.found()) == {Reason.OK, Reason.CONFIG}
        load_anew(bench.chat, inputs=(TEXT,))
        found = len(bench.found())
        await bench.pass_(5)
        assert bench.verdict.state is State.PASSING
        assert set(bench.found()[found:]) == {Reason.OK}


@pytest.mark.parametrize("delay", [3.2, 3.4, 3.7, 3.9])
async def test_learned_expectations_do_not_apply_to_another_load(
    delay: float,
) -> None:
    numbers = TensorSpec("score", "FP32", (2,))
    score = model(outputs=(numbers,))
    score.reply = Answer({"score": Tensor("FP32", np.array([1.0, 2.0], np.float32))})
    score.delay = delay
    async with probing(score, canaries={}) as bench:
        await bench.pass_(15)
        assert bench.verdict.state is State.PASSING
        while not score.in_flight:
            await bench.pass_(0.1)
        score.reply = Answer({"score": Tensor("FP32", np.array([3.0, 4.0], np.float32))})
        load_anew(score)
        await bench.pass_(15)
        assert Reason.CANARY_WRONG_ANSWER not in bench.found()


async def test_a_failed_description_is_retried_at_the_next_probe() -> None:
    async with probing() as bench:
        await bench.pass_(5)
        describe = bench.triton.describe
        failed: list[float] = []

        async def once(model: str, timeout: float) -> ModelDescription:
            if not failed:
                failed.append(bench.clock.now())
                raise Unavailable("UNAVAILABLE: no")
            return await describe(model, timeout)

        bench.triton.describe = once  # type: ignore[method-assign]
        load_anew(bench.chat, versions=("2",))
        await bench.pass_(4)
        assert failed
        assert bench.prober.identity.value.models[0].versions == ("2",)


async def test_a_model_that_cannot_be_described_is_not_served_whatever_it_answers() -> None:
    async with probing() as bench:
        await bench.pass_(5)

        async def never(model: str, timeout: float) -> ModelDescription:
            raise Rejected("INTERNAL: no")

        bench.triton.describe = never  # type: ignore[method-assign]
        bench.chat.reply = says("nonsense")
        before = bench.sent()
        await bench.pass_(5)
        assert bench.verdict.reason is Reason.MODEL_UNANSWERED
        assert bench.sent() - before < 10


async def test_every_canary_can_be_sent_once_as_it_is_configured() -> None:
    async with probing(model("chat"), model("embed"), canaries={"chat": canary()}) as bench:
        await bench.pass_(3)
        chat, embed = await bench.prober.examine()
        assert (chat.finding.ok, chat.derived, embed.finding.ok, embed.derived) == (
            *(True, False),
            *(True, True),
        )
        bench.prober.configure([canary(expectations=(Equals("text", ("left",)),))], SETTINGS.rules)
        assert (await bench.prober.examine())[0].finding.reason is Reason.CANARY_WRONG_ANSWER


async def test_an_unloaded_model_is_not_ready() -> None:
    async with probing(model("chat"), model("embed")) as bench:
        await bench.pass_(2)
        bench.chat.ready = False
        await bench.pass_(3)
        assert bench.verdict.summary.startswith("CRITICAL MODEL_NOT_READY: chat: ")
        assert bench.verdict.models == {"embed"}


async def test_an_unexpected_version_is_named() -> None:
    async with probing(canaries={"chat": canary(version="3")}) as bench:
        await bench.pass_(2)
        assert bench.verdict.summary == (
            "STARTING MODEL_WRONG_VERSION: chat: expected version 3, loaded is 1"
        )


async def test_a_canary_that_does_not_fit_is_a_configuration_mistake() -> None:
    misfit = canary(steps=({"prompt": says("?").outputs["text"]},))
    async with probing(canaries={"chat": misfit}) as bench:
        await bench.pass_(2)
        assert bench.verdict.summary.startswith("STARTING CONFIG: chat: ")
        assert "prompt" in bench.verdict.detail
        bench.prober.configure([canary()], SETTINGS.rules)
        await bench.pass_(3)
        assert bench.verdict.state is State.PASSING
