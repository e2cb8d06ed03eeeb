"""The prober and its derived canaries: learned, proven, and when they may eject an instance."""

from dataclasses import replace

import numpy as np
import pytest

from sidecar.events import CanaryCached, CanaryDerived
from sidecar.runtime.errors import (
    Rejected,
)
from sidecar.triton.api import Answer, InferenceRequest, Tensor, TensorSpec
from sidecar.verdict.evidence import Layer, Reason
from sidecar.verdict.verdict_line import State
from tests.support.prober_bench import (
    TEXT,
    load_anew,
    model,
    probing,
    says,
)


async def test_a_derived_canary_is_reported_as_such_even_while_it_is_late() -> None:
    async with probing(canaries={}) as bench:
        await bench.pass_(2)
        bench.chat.hung = True
        await bench.pass_(20)
        [found] = [each for each in bench.evidence if each.layer is Layer.CANARY]
        assert (found.reason, found.remark) == (Reason.MODEL_HUNG, "derived canary")


async def test_without_a_canary_one_is_derived() -> None:
    async with probing(canaries={}) as bench:
        await bench.pass_(2)
        assert bench.verdict.state is State.PASSING
        derived = [event for event in bench.events if isinstance(event, CanaryDerived)]
        assert [event.model for event in derived] == ["chat"]
        assert "canary record chat" in derived[0].advice


SCORE = TensorSpec("score", "FP32", (1,))
MATRIX = Answer({"score": Tensor("FP32", np.array([[1.0]], np.float32))})
VECTOR = Answer({"score": Tensor("FP32", np.array([1.0], np.float32))})


async def test_a_derived_canary_that_never_passed_warns_and_ejects_no_instance() -> None:
    score = model(outputs=(SCORE,))
    score.reply = MATRIX
    async with probing(score, canaries={}) as bench:
        await bench.pass_(100)
        assert bench.verdicts == ["warning CANARY_NEVER_PASSED"]
        assert "expected [1], got [1, 1]" in bench.verdict.detail
        assert bench.verdict.serving
        (examined,) = await bench.prober.examine()
        assert examined.finding.reason is Reason.CANARY_NEVER_PASSED
        score.reply = VECTOR
        await bench.pass_(10)
        assert bench.verdict.state is State.PASSING
        score.reply = MATRIX
        await bench.pass_(3)
        assert bench.verdict.reason is Reason.CANARY_WRONG_ANSWER
        (examined,) = await bench.prober.examine()
        assert examined.finding.reason is Reason.CANARY_WRONG_ANSWER


async def test_a_model_that_answered_in_another_form_and_then_fails_is_critical() -> None:
    score = model(outputs=(SCORE,))
    score.reply = MATRIX
    async with probing(score, canaries={}) as bench:
        await bench.pass_(5)
        score.error = Rejected("INTERNAL: the stub is dead")
        await bench.pass_(3)
        assert bench.verdicts[-1] == "critical CANARY_FAILED"
        score.error, score.hung = None, True
        await bench.pass_(100)
        assert bench.verdicts[-1] == "critical MODEL_HUNG"


async def test_a_canary_that_a_model_refuses_from_the_start_is_only_a_warning() -> None:
    async with probing(canaries={}) as bench:
        bench.chat.error = Rejected("INTERNAL: expected a parameter")
        await bench.pass_(100)
        assert bench.verdicts == ["warning CANARY_NEVER_PASSED"]


async def test_a_derived_canary_that_is_never_answered_is_no_evidence() -> None:
    broken = model()
    broken.hung = True
    async with probing(broken, canaries={}) as bench:
        await bench.pass_(100)
        assert Reason.MODEL_HUNG not in bench.found()
        assert not any(said.startswith(("passing", "warning")) for said in bench.verdicts)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"versions": ("2",)}, Reason.CANARY_WRONG_ANSWER),
        ({"config": b"instance_group"}, Reason.CANARY_WRONG_ANSWER),
        ({"inputs": (TEXT, replace(TEXT, name="more"))}, Reason.CANARY_NEVER_PASSED),
        ({"outputs": (replace(SCORE, shape=(2,)),)}, Reason.CANARY_NEVER_PASSED),
    ],
)
async def test_a_canary_that_has_passed_once_also_counts_for_a_reload_in_the_same_form(
    changes: dict[str, object], reason: Reason
) -> None:
    score = model(outputs=(SCORE,))
    score.reply = VECTOR
    async with probing(score, canaries={}) as bench:
        await bench.pass_(5)
        assert bench.verdicts == ["passing OK"]
        load_anew(score, **changes)
        score.reply = MATRIX
        await bench.pass_(5)
        assert bench.verdict.reason is reason


@pytest.mark.parametrize("passed", [True, False])
async def test_a_restarted_sidecar_knows_which_canaries_have_passed(passed: bool) -> None:
    score = model(outputs=(SCORE,))
    score.reply = VECTOR if passed else MATRIX
    async with probing(score, canaries={}) as bench:
        await bench.pass_(5)
        proven = bench.prober.proven
    score.reply = MATRIX
    async with probing(score, canaries={}, proven=proven) as bench:
        await bench.pass_(100)
        found = Reason.CANARY_WRONG_ANSWER if passed else Reason.CANARY_NEVER_PASSED
        assert bench.verdict.reason is found
        assert bench.prober.proven == proven


async def test_a_derived_canary_expects_what_two_answers_have_in_common() -> None:
    numbers = TensorSpec("score", "FP32", (2,))
    score = model(outputs=(numbers,))
    score.reply = Answer({"score": Tensor("FP32", np.array([1.0, 2.0], np.float32))})
    async with probing(score, canaries={}) as bench:
        await bench.pass_(3)
        assert bench.verdict.state is State.PASSING
        score.reply = Answer({"score": Tensor("FP32", np.array([1.0, 9.0], np.float32))})
        await bench.pass_(2)
        assert bench.verdict.reason is Reason.CANARY_WRONG_ANSWER


@pytest.mark.parametrize("refuses", [True, False])
async def test_a_model_is_not_held_to_a_canary_that_it_never_answered(refuses: bool) -> None:
    """It accepts few inputs; answers from the response cache are reported as such."""

    def strict(question: InferenceRequest) -> Answer:
        if question.steps[0]["text"].array[0] == b"?":
            return says("right")
        if refuses:
            raise Rejected("INTERNAL: KeyError")
        return says("something else")

    async with probing(model(cached=True)) as bench:
        bench.chat.reply = strict
        await bench.pass_(30)
        assert bench.verdicts == ["passing OK"]
        cached = [event.model for event in bench.events if isinstance(event, CanaryCached)]
        assert cached == (["chat"] if refuses else [])
        [found] = [each for each in bench.evidence if each.layer is Layer.CANARY]
        assert ("response cache" in found.remark) is refuses
