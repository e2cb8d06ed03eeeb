import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.health.canary.definition import Canary
from sidecar.health.canary.derive import derive
from sidecar.health.canary.expectations import (
    AllClose,
    Contains,
    Cosine,
    Datatype,
    Equals,
    Expectation,
    Finite,
    Image,
    JsonSchema,
    Label,
    Length,
    NotDegenerate,
    Regex,
    Shape,
    broken_by,
)
from sidecar.health.canary.judge import fault, misfit
from sidecar.triton.api import Answer, ModelDescription, Tensor, TensorSpec
from sidecar.triton.tensors import DATATYPES, tensor
from sidecar.verdict.evidence import Reason

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
def test_a_canary_that_fits_its_model(canary: Canary, described: ModelDescription) -> None:
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
        (replace(CANARY, expectations=(Label("y", "cat"), Regex("z", "a"))), BATCHED,
         "canary.chat.expect: expected one of the outputs y FP32 [-1, 2], found z"),
    ],
)  # fmt: skip
def test_a_canary_that_does_not_fit_says_why(
    canary: Canary, described: ModelDescription, why: str
) -> None:
    assert misfit(canary, described) == why


def test_the_request_is_built_for_the_model() -> None:
    described = replace(SEQUENCE, decoupled=True, priority_levels=3)
    question = replace(STEPS, version="2").request(described)
    assert (question.steps, question.version) == (STEPS.steps, "2")
    assert (question.decoupled, question.stateful, question.priority) == (True, True, 3)


def answering(datatype: str, *shape: int, decoupled: bool = False) -> ModelDescription:
    """A model with one output."""
    output = (TensorSpec("y", datatype, shape),)
    return ModelDescription("m", outputs=output, decoupled=decoupled)


TEXT = answering("BYTES", -1)
SCORES = answering("FP32", -1, 10)
PIXELS = answering("UINT8", 64, 48, 3)


def expecting(*expectations: Expectation) -> Canary:
    return Canary("m", ({},), expectations)


@pytest.mark.parametrize(
    ("expectation", "described"),
    [
        (Datatype("y", "FP32"), SCORES),
        (Shape("y", (1, 10)), SCORES),
        (Shape("y", (-1, -1)), SCORES),
        (Shape("y", (7, 7, 7)), answering("FP32", -1, 10, decoupled=True)),
        (Length("y", 1, 9), TEXT),
        (Length("y", 640), SCORES),
        (Length("y", 1, 9), answering("FP32", 10, decoupled=True)),
        (Equals("y", ("a", "b")), TEXT),
        (Equals("y", (0.1,) * 20), SCORES),
        (Equals("y", (1.0,)), answering("INT8", 1)),
        (Equals("y", (True,)), answering("BOOL", 1)),
        (Equals("y", (1, 2)), answering("INT8", 1, decoupled=True)),
        (Regex("y", "a"), TEXT),
        (JsonSchema("y", {}), TEXT),
        (Finite("y"), answering("BOOL", 1)),
        (AllClose("y", (1.0,) * 10, 0, 0), SCORES),
        (Cosine("y", (1.0,) * 30), SCORES),
        (Label("y", 9), SCORES),
        (Label("y", 9), TEXT),
        (Label("y", "cat"), SCORES),
        (Label("y", "cat"), TEXT),
        (Image("y"), TEXT),
        (Image("y", 48, 64), PIXELS),
        (Image("y", 999, 999), answering("FP32", -1, 3, -1, -1)),
        (Image("y"), answering("FP32", -1, decoupled=True)),
        (Finite("y"), answering("FP8", 1)),
    ],
)
def test_outputs_that_are_possible_may_be_expected(
    expectation: Expectation, described: ModelDescription
) -> None:
    (spec,) = described.outputs
    if spec.datatype in DATATYPES:
        found = fault(expecting(expectation), described, as_described(described))
        assert found is None or found[0] is Reason.CANARY_WRONG_ANSWER


def as_described(described: ModelDescription) -> Answer:
    """An answer as the model's description promises it."""
    (spec,) = described.outputs
    shape = [max(extent, 1) for extent in spec.shape]
    element = "" if spec.datatype == "BYTES" else 0
    return Answer({spec.name: tensor(spec.datatype, shape, [element] * math.prod(shape))})


@pytest.mark.parametrize(
    ("expectation", "described", "why"),
    [
        (Datatype("y", "FP16"), SCORES, "datatype: expected the datatype FP32, found FP16"),
        (Shape("y", (1, 11)), SCORES, "shape: expected the shape [-1, 10], found [1, 11]"),
        (Shape("y", (10,)), SCORES, "shape: expected the shape [-1, 10], found [10]"),
        (Length("y", 0, 3), PIXELS,
         "length: expected as many elements as [64, 48, 3] holds, found 0 to 3"),
        (Length("y", 11, 19), SCORES,
         "length: expected as many elements as [-1, 10] holds, found 11 to 19"),
        (Length("y", 9999), PIXELS,
         "length: expected as many elements as [64, 48, 3] holds, found 9999 to any"),
        (Equals("y", (1,)), TEXT, "equals: expected elements that BYTES can have, found 1"),
        (Equals("y", ("a",)), SCORES, "equals: expected elements that FP32 can have, found 'a'"),
        (Equals("y", (1.5,)), PIXELS, "equals: expected elements that UINT8 can have, found 1.5"),
        (Equals("y", (True,)), PIXELS, "equals: expected elements that UINT8 can have, found True"),
        (Equals("y", (1,)), SCORES,
         "equals: expected as many elements as [-1, 10] holds, found 1"),
        (Equals("y", (1,)), answering("BOOL", 1), "equals: expected elements that BOOL can have"),
        (Contains("y", ("a",)), SCORES, "contains: expected a condition on numbers"),
        (Regex("y", "a"), SCORES, "regex: expected a condition on numbers"),
        (JsonSchema("y", {}), SCORES, "json_schema: expected a condition on numbers"),
        (NotDegenerate("y"), answering("INT32", 1, decoupled=True),
         "not_degenerate: expected a condition on numbers"),
        (Finite("y"), TEXT, "finite: expected a condition on text"),
        (AllClose("y", (1.0,), 0, 0), TEXT, "allclose: expected a condition on text"),
        (AllClose("y", (1.0,), 0, 0), PIXELS,
         "allclose: expected as many elements as [64, 48, 3] holds, found 1"),
        (Cosine("y", (1.0,)), answering("BYTES", 1, decoupled=True),
         "cosine: expected a condition on text"),
        (Label("y", 10), SCORES, "label: expected a class below 10, found 10"),
        (Image("y"), SCORES, "image: expected no image"),
        (Image("y"), answering("BOOL", 64, 48, 3), "image: expected no image"),
        (Image("y", 49, 64), PIXELS,
         "image: expected a smaller image, found at least 49 x 64"),
        (Image("y", 1, 65), answering("FP32", 3, 64, 48),
         "image: expected a smaller image, found at least 1 x 65"),
    ],
)  # fmt: skip
def test_an_impossible_expectation_is_a_mistake_if_the_output_is_as_described(
    expectation: Expectation, described: ModelDescription, why: str
) -> None:
    assert misfit(expecting(expectation), described) == ""
    found = fault(expecting(expectation), described, as_described(described))
    assert found is not None
    reason, text = found
    assert reason is Reason.CONFIG
    assert text.startswith(f"canary.m.expect: y: {why}")
    (spec,) = described.outputs
    assert text.endswith(f", because the model describes y {spec.datatype} {[*spec.shape]}")


def test_a_label_is_requested_as_text_and_excludes_other_conditions() -> None:
    canary = expecting(Label("y", "cat"), Finite("y"))
    classified = Answer({"y": tensor("BYTES", [1, 1], ["0.9:3:cat"])})
    found = fault(canary, SCORES, classified)
    assert found is not None
    assert found[0] is Reason.CONFIG
    assert found[1].startswith("canary.m.expect: y: finite: ")
    assert found[1].endswith(", because the best class of y is asked for as text")
    assert canary.request(SCORES).outputs == (("y", True),)
    assert canary.request(TEXT).outputs == ()


def test_each_request_has_the_canary_s_parameters_and_id() -> None:
    canary = replace(STEPS, parameters={"a": True, "b": 5, "c": 0.5, "d": "x"}, id="probe")
    question = canary.request(SEQUENCE)
    assert (question.parameters, question.id) == (canary.parameters, "probe")
    assert CANARY.request(SINGLE).parameters == {}


_SPECS = st.builds(
    TensorSpec,
    st.sampled_from("yz"),
    st.sampled_from(DATATYPES),
    st.lists(st.integers(-1, 4), max_size=3).map(tuple),
)


@given(st.lists(_SPECS, min_size=1, max_size=2), st.integers(0, 2), st.booleans())
def test_every_derived_canary_fits_its_model(
    specs: list[TensorSpec], batch: int, decoupled: bool
) -> None:
    if batch:
        specs = [replace(spec, shape=(-1, *spec.shape)) for spec in specs]
    named = tuple({spec.name: spec for spec in specs}.values())
    described = ModelDescription("m", (), b"", decoupled, False, named, named, batch)
    canary = derive(described)
    assert not isinstance(canary, str)
    assert misfit(canary, described) == ""
    answered = {
        spec.name: tensor(
            spec.datatype,
            shape := [
                1 if batch and not axis else max(extent, 0)
                for axis, extent in enumerate(spec.shape)
            ],
            ["" if spec.datatype == "BYTES" else 0] * math.prod(shape),
        )
        for spec in named
    }
    assert fault(canary, described, Answer(answered)) is None


OTHERWISE = [
    (Shape("y", (1, 1)), answering("FP32", 1), tensor("FP32", [1, 1], [2])),
    (Shape("y", ()), answering("FP32", 1), tensor("FP32", [], [2])),
    (Datatype("y", "FP64"), answering("FP32", 1), tensor("FP64", [1], [2])),
    (AllClose("y", (1, 2, 3), 0, 0), answering("FP32", 2), tensor("FP32", [3], [1, 2, 3])),
    (Equals("y", ("a",)), answering("INT32", 1), tensor("BYTES", [1], ["a"])),
]


@pytest.mark.parametrize(("expectation", "described", "answered"), OTHERWISE)
def test_an_answer_may_differ_from_the_models_config(
    expectation: Expectation, described: ModelDescription, answered: Tensor
) -> None:
    canary = expecting(expectation)
    assert misfit(canary, described) == ""
    assert fault(canary, described, Answer({"y": answered})) is None
    by_the_config = fault(canary, described, as_described(described))
    assert by_the_config
    assert by_the_config[0] is Reason.CONFIG
    neither = fault(canary, described, Answer({"y": tensor("BOOL", [1, 1, 1], [True])}))
    assert neither
    assert neither[0] is Reason.CANARY_WRONG_ANSWER
    assert (fault(canary, described, Answer({})) or ("",))[0] is Reason.CANARY_WRONG_ANSWER


def test_an_output_that_is_neither_described_nor_answered_is_a_mistake_in_the_canary() -> None:
    answered = as_described(answering("FP32", 1))
    found = fault(expecting(Finite("z")), answering("FP32", 1), answered)
    assert found is not None
    assert found[0] is Reason.CONFIG
    assert found[1].endswith(" y FP32 [1], found z")
    assert fault(expecting(Finite("y")), answering("FP32", 1), answered) is None


_OUTPUTS = st.sampled_from(DATATYPES).flatmap(
    lambda datatype: st.builds(
        lambda shape, element: tensor(datatype, shape, [element] * math.prod(shape)),
        st.lists(st.integers(0, 3), max_size=3),
        st.just("3:1:a") if datatype == "BYTES" else st.integers(0, 1),
    )
)
_CONDITIONS = [
    Datatype("y", "FP32"),
    Shape("y", (2, -1)),
    Length("y", 2, 4),
    Equals("y", ("3:1:a",)),
    Equals("y", (1, 1)),
    Equals("y", (True,)),
    Contains("y", ("a",)),
    Regex("y", "a"),
    NotDegenerate("y"),
    Finite("y"),
    AllClose("y", (1.0, 0.0), 1.0, 0.0),
    Cosine("y", (1.0, 1.0)),
    Label("y", 1),
    Label("y", 0),
]


@pytest.mark.parametrize("expectation", _CONDITIONS, ids=lambda each: each.key)
@given(data=st.data(), value=_OUTPUTS)
def test_an_expectation_that_an_answer_meets_fits_the_description(
    expectation: Expectation, data: st.DataObject, value: Tensor
) -> None:
    shape = tuple(data.draw(st.sampled_from([extent, -1])) for extent in value.array.shape)
    described = answering(value.datatype, *shape)
    answer = Answer({"y": value})
    found = fault(expecting(expectation), described, answer)
    assert (found is None) == (broken_by([expectation], answer) is None)


_EXTENTS = st.lists(st.integers(0, 3), max_size=3).map(tuple)


@given(_EXTENTS, st.lists(st.integers(-1, 3), max_size=3).map(tuple), st.integers(0, 2))
def test_any_shapes_can_be_compared(
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
