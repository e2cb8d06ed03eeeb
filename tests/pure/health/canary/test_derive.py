"""Canaries derived from a model's description."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.health.canary.definition import Canary
from sidecar.health.canary.derive import TEXT, derive, repeatable
from sidecar.health.canary.expectations import broken_by
from sidecar.triton.api import Answer, ModelDescription, Tensor, TensorSpec
from sidecar.triton.tensors import DATATYPES, dtype, tensor

IN = TensorSpec("in", "FP32", (-1, 3, -1))
OUT = TensorSpec("out", "FP32", (-1, 2))
MODEL = ModelDescription("m", ("1",), inputs=(IN,), outputs=(OUT,), max_batch_size=8)


def canary(described: ModelDescription) -> Canary:
    found = derive(described)
    assert isinstance(found, Canary)
    return found


def answer(*numbers: float, datatype: str = "FP32") -> Answer:
    return Answer({"out": tensor(datatype, [1, len(numbers)], numbers)})


@given(st.sampled_from(DATATYPES), st.lists(st.integers(-1, 4).filter(bool), max_size=4).map(tuple))
def test_an_input_of_any_datatype_is_filled(datatype: str, shape: tuple[int, ...]) -> None:
    described = replace(MODEL, inputs=(TensorSpec("in", datatype, shape),))
    (step,) = canary(described).steps
    assert step["in"].datatype == datatype
    assert step["in"].array.dtype == dtype(datatype)
    assert step["in"].array.shape == tuple(max(extent, 1) for extent in shape)
    assert {*step["in"].array.flat} <= {TEXT if datatype == "BYTES" else 1}


def test_a_derived_canary_is_marked() -> None:
    assert canary(MODEL).derived
    assert canary(MODEL).model == "m"


def test_optional_inputs_are_left_out_and_then_only_the_first_output_is_expected() -> None:
    more = TensorSpec("more", "INT32", (1,), optional=True)
    two = replace(MODEL, inputs=(IN, more), outputs=(OUT, TensorSpec("echo", "INT32", (1,))))
    assert canary(two).steps[0].keys() == {"in"}
    assert broken_by(canary(two).expectations, answer(1, 2)) is None
    both = replace(two, inputs=(IN, replace(more, optional=False)))
    assert canary(both).steps[0].keys() == {"in", "more"}
    found = broken_by(canary(both).expectations, answer(1, 2))
    assert found
    assert "echo" in found[1]
    only = replace(two, inputs=(more,))
    assert canary(only).steps[0].keys() == {"more"}


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (answer(1, 2, 3), "shape"),
        (answer(1, float("nan")), "finite"),
        (answer(1, float("-inf")), "finite"),
        (answer(1, 2, datatype="FP16"), "datatype"),
        (Answer({}), "out"),
        (Answer({"out": tensor("FP32", [2, 2], [1, 2, 3, 4])}), "shape"),  # a batch of two
    ],
)
def test_an_answer_of_another_shape_or_datatype_is_wrong(wrong: Answer, why: str) -> None:
    found = broken_by(canary(MODEL).expectations, wrong)
    assert found
    assert why in found[1]
    assert broken_by(canary(MODEL).expectations, answer(1, 2)) is None


def test_the_shape_of_a_stream_is_not_checked() -> None:
    streaming = replace(MODEL, decoupled=True)
    assert broken_by(canary(streaming).expectations, answer(1, 2, 3, 4, 5)) is None
    assert broken_by(canary(streaming).expectations, answer(1, float("nan"))) is not None


@pytest.mark.parametrize(
    ("described", "why"),
    [
        (replace(MODEL, inputs=(replace(IN, datatype="FP7"),)), "in is of datatype FP7"),
        (replace(MODEL, inputs=(replace(IN, shape=(9000, 9000)),)), "more than 16 MiB"),
        (replace(MODEL, outputs=()), "no outputs"),
    ],
)
def test_a_canary_that_cannot_be_derived_is_reported(described: ModelDescription, why: str) -> None:
    found = derive(described)
    assert isinstance(found, str)
    assert why in found


def test_the_values_of_two_equal_answers_are_expected_afterwards() -> None:
    pinned = repeatable(canary(MODEL), answer(1, 200), answer(1.0005, 201))
    assert broken_by(pinned.expectations, answer(1.001, 199)) is None
    found = broken_by(pinned.expectations, answer(1, 300))
    assert found
    assert "allclose" in found[1]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (answer(1, 2), answer(1, 5)),
        (answer(1, 2), Answer({})),
        (answer(1, 2, datatype="INT32"), answer(1, 2, datatype="INT32")),
        (Answer({"out": tensor("BYTES", [1], ["a"])}), Answer({"out": tensor("BYTES", [1], "a")})),
        (Answer({"out": Tensor("FP32", np.zeros(2**17, "f4"))}),) * 2,
    ],
    ids=["differ", "missing", "integers", "text", "too many"],
)
def test_no_other_answers_become_expectations(first: Answer, second: Answer) -> None:
    assert repeatable(canary(MODEL), first, second).expectations == canary(MODEL).expectations
