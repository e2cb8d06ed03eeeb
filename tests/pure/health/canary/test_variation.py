"""A canary that a response cache cannot answer, and how a model reacts to it."""

import numpy as np
import pytest

from sidecar.health.canary.definition import Canary
from sidecar.health.canary.expectations import Equals
from sidecar.health.canary.variation import Variation, VariationEffect, varied
from sidecar.triton.api import ModelDescription, Tensor
from sidecar.triton.tensors import tensor

DESCRIBED = ModelDescription("m", ("1",), cached=True)


@pytest.mark.parametrize(
    "given",
    [
        tensor("FP32", [2], [0.0, 1.9]),
        tensor("FP64", [1], [-3.0]),
        tensor("BYTES", [1], ["größer"]),
    ],
)
def test_numbers_and_texts_vary_by_almost_nothing(given: Tensor) -> None:
    before = given.array.copy()
    found = [varied({"in": given, "n": tensor("INT32", [1], [1])}, each) for each in range(50)]
    assert np.array_equal(given.array, before)
    seen = {str(each["in"].array.tolist()) for each in found if each is not None}
    assert len(seen) == 50
    for each in found:
        assert each is not None
        if given.datatype == "BYTES":
            assert each["in"].array[0].strip() == given.array[0]
        else:
            assert np.allclose(each["in"].array, before, rtol=1e-3)


@pytest.mark.parametrize(
    "given",
    [
        tensor("INT32", [1], [7]),
        tensor("BOOL", [1], [True]),
        tensor("FP32", [1], [0.0]),
        tensor("FP32", [1], [float("inf")]),
        tensor("BYTES", [1], [""]),
        Tensor("BYTES", np.array([b"\x80\x01\xfe"], dtype=np.object_)),
    ],
)
def test_inputs_whose_variation_would_change_the_meaning_do_not_vary(given: Tensor) -> None:
    assert varied({"in": given}, 3) is None
    canary = Canary("m", ({"in": given},), ())
    assert Variation().apply(canary, 3) is None


@pytest.mark.parametrize(
    ("answers", "effect"),
    [
        ([], VariationEffect.UNKNOWN),
        ([VariationEffect.EQUIVALENT], VariationEffect.EQUIVALENT),
        (
            [VariationEffect.EQUIVALENT, VariationEffect.EQUIVALENT, VariationEffect.DIFFERENT],
            VariationEffect.EQUIVALENT,
        ),
        ([VariationEffect.EQUIVALENT, VariationEffect.DIFFERENT], VariationEffect.DIFFERENT),
        ([VariationEffect.DIFFERENT, VariationEffect.EQUIVALENT], VariationEffect.DIFFERENT),
        ([VariationEffect.DIFFERENT, VariationEffect.REJECTED], VariationEffect.REJECTED),
        ([VariationEffect.REJECTED, VariationEffect.EQUIVALENT], VariationEffect.REJECTED),
        (
            [VariationEffect.EQUIVALENT, VariationEffect.EQUIVALENT, VariationEffect.REJECTED],
            VariationEffect.EQUIVALENT,
        ),
    ],
)
def test_the_first_answers_decide_the_effect(
    answers: list[VariationEffect], effect: VariationEffect
) -> None:
    found = Variation().of(DESCRIBED)
    for each in answers:
        found = found.after(each)
    assert found.effect is effect
    canary = Canary("m", ({"in": tensor("FP32", [1], [1.0])},), (Equals("out", (1,)),))
    question = found.apply(canary, 5)
    assert (question is None) is (effect is VariationEffect.REJECTED)
    if question is not None:
        assert bool(question.expectations) is (effect is not VariationEffect.DIFFERENT)
    reloaded = ModelDescription("m", ("2",), cached=True)
    assert found.of(reloaded).effect is VariationEffect.UNKNOWN
