import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.health.canary import Canary, misfit
from sidecar.health.expectations import Finite, Regex
from sidecar.triton_api import ModelDescription, TensorSpec
from sidecar.triton_tensors import tensor

BATCHED = ModelDescription(
    "chat",
    inputs=(TensorSpec("x", "FP32", (-1, 2)), TensorSpec("seed", "INT32", (-1, 1), optional=True)),
    outputs=(TensorSpec("y", "FP32", (-1, 2)),),
    max_batch_size=4,
)
SINGLE = replace(
    BATCHED, inputs=(TensorSpec("x", "FP32", (1, 2)), BATCHED.inputs[1]), max_batch_size=0
)
SEQUENCE = replace(BATCHED, stateful=True)
X = tensor("FP32", [1, 2], [1, 2])
CANARY = Canary("chat", ({"x": X},), (Finite("y"),))
STEPS = replace(CANARY, steps=({"x": X}, {"x": X}))
HAS = "x FP32 [-1, 2]; seed INT32 [-1, 1] (optional)"


@pytest.mark.parametrize(
    ("canary", "described"),
    [
        (CANARY, BATCHED),
        (CANARY, SINGLE),
        (CANARY, SEQUENCE),
        (STEPS, SEQUENCE),
        (replace(CANARY, steps=({"x": tensor("FP32", [4, 2], [1] * 8)},)), BATCHED),
        (replace(CANARY, steps=({"x": X, "seed": tensor("INT32", [1, 1], [1])},)), BATCHED),
        (CANARY, ModelDescription("chat")),
    ],
)
def test_a_canary_that_fits(canary: Canary, described: ModelDescription) -> None:
    assert misfit(canary, described) == ""


@pytest.mark.parametrize(
    ("canary", "described", "why"),
    [
        (replace(CANARY, steps=({"x": X, "z": X},)), BATCHED,
         f"canary.chat.inputs: expected some of the inputs {HAS}, found z"),
        (replace(CANARY, steps=({},)), BATCHED,
         f"canary.chat.inputs: expected the inputs {HAS}, found no x"),
        (replace(CANARY, steps=({"x": tensor("FP16", [1, 2], [1, 2])},)), BATCHED,
         "canary.chat.inputs: x: expected the datatype FP32, found FP16"),
        (replace(CANARY, steps=({"x": tensor("FP32", [2], [1, 2])},)), BATCHED,
         "canary.chat.inputs: x: expected the shape [-1, 2] (batch first), found [2]"),
        (replace(CANARY, steps=({"x": tensor("FP32", [1, 3], [1] * 3)},)), SINGLE,
         "canary.chat.inputs: x: expected the shape [1, 2], found [1, 3]"),
        (replace(CANARY, steps=({"x": tensor("FP32", [5, 2], [1] * 10)},)), BATCHED,
         "canary.chat.inputs: x: expected a batch of 1 to 4, found 5"),
        (replace(CANARY, steps=({"x": tensor("FP32", [0, 2], [])},)), BATCHED,
         "canary.chat.inputs: x: expected a batch of 1 to 4, found 0"),
        (STEPS, BATCHED,
         "canary.chat.steps: expected inputs, because the model is not stateful"),
        (replace(STEPS, steps=({"x": X}, {})), SEQUENCE,
         f"canary.chat.steps.1: expected the inputs {HAS}, found no x"),
        (replace(CANARY, expectations=(Finite("y"), Regex("z", re.compile("a")))), BATCHED,
         "canary.chat.expect: expected one of the outputs y FP32 [-1, 2], found z"),
    ],
)  # fmt: skip
def test_a_canary_that_does_not_fit_says_why(
    canary: Canary, described: ModelDescription, why: str
) -> None:
    assert misfit(canary, described) == why


def test_the_question_is_asked_as_the_model_wants_it() -> None:
    described = replace(SEQUENCE, decoupled=True, priority_levels=3)
    question = replace(STEPS, version="2").question(described)
    assert (question.steps, question.version) == (STEPS.steps, "2")
    assert (question.decoupled, question.stateful, question.priority) == (True, True, 3)


_EXTENTS = st.lists(st.integers(0, 3), max_size=3).map(tuple)


@given(_EXTENTS, st.lists(st.integers(-1, 3), max_size=3).map(tuple), st.integers(0, 2))
def test_whatever_shapes_meet_are_compared(
    shape: tuple[int, ...], spec: tuple[int, ...], batch: int
) -> None:
    size = 1
    for extent in shape:
        size *= extent
    canary = replace(CANARY, steps=({"x": tensor("FP32", shape, [1] * size)},))
    described = replace(SINGLE, inputs=(TensorSpec("x", "FP32", spec),), max_batch_size=batch)
    agrees = len(shape) == len(spec) and all(s in (-1, e) for s, e in zip(spec, shape, strict=True))
    if batch and shape and not 1 <= shape[0] <= batch:
        agrees = False
    assert (misfit(canary, described) == "") == agrees
