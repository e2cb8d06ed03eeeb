"""Tensors on the wire."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sidecar.triton.api import Tensor
from sidecar.triton.tensors import DATATYPES, decode, dtype, encode, joined, tensor

SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
NUMERIC = [name for name in DATATYPES if name not in ("BYTES", "BF16")]


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    name = draw(st.sampled_from(NUMERIC))
    return Tensor(name, draw(arrays.arrays(dtype(name), SHAPES)))


@given(tensors())
def test_encoded_tensors_can_be_decoded(value: Tensor) -> None:
    came = decode(value.datatype, value.array.shape, encode(value))
    assert came.datatype == value.datatype
    assert came.array.dtype == value.array.dtype
    np.testing.assert_array_equal(came.array, value.array)


@given(st.lists(st.binary(max_size=20), max_size=10))
def test_any_bytes_survive_a_round_trip(elements: list[bytes]) -> None:
    value = tensor("BYTES", [len(elements)], elements)
    assert decode("BYTES", [len(elements)], encode(value)).array.tolist() == elements


@given(st.floats(width=32))
def test_bf16_is_exact_to_half_of_its_last_place(number: float) -> None:
    came = decode("BF16", [1], encode(tensor("BF16", [1], [number]))).array
    if np.isnan(number):
        assert np.isnan(came[0])
    elif abs(number) < 3.38e38:  # above, the nearest value is infinity
        assert abs(float(came[0]) - number) <= max(abs(number) * 2**-8, 2**-134)
    assert encode(Tensor("BF16", came)) == encode(tensor("BF16", [1], [number]))


@pytest.mark.parametrize(
    ("number", "raw"),
    [
        (1.0, "803f"),
        (-2.0, "00c0"),
        (float("inf"), "807f"),
        (1.00390625, "803f"),  # half way: to the even one below
        (1.01171875, "823f"),  # half way: to the even one above
    ],
)
def test_bf16_is_the_upper_half_of_float32(number: float, raw: str) -> None:
    assert encode(tensor("BF16", [1], [number])).hex() == raw


def test_a_nan_in_the_lower_half_stays_a_nan() -> None:
    hidden = np.array([0x7F800001], dtype="<u4").view("<f4")
    assert np.isnan(decode("BF16", [1], encode(Tensor("BF16", hidden))).array[0])


@pytest.mark.parametrize(
    ("datatype", "shape", "raw"),
    [
        ("FP32", [1], b""),
        ("FP32", [2], bytes(4)),
        ("FP32", [-1], bytes(4)),
        ("FP32", [1], bytes(5)),
        ("BYTES", [1], b"\4\0\0\0abc"),
        ("BYTES", [1], b"\4\0"),
        ("BYTES", [2], b"\1\0\0\0a"),
        ("FP7", [1], bytes(4)),
    ],
)
def test_contents_that_do_not_fit_are_refused(datatype: str, shape: list[int], raw: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # NumPy's own words
        decode(datatype, shape, raw)


@pytest.mark.parametrize(
    ("datatype", "elements"),
    [("UINT8", [256]), ("INT32", ["x"]), ("FP32", [1.0, 2.0]), ("INT8", [None]), ("FP7", [1])],
)
def test_elements_that_do_not_fit_are_refused(datatype: str, elements: list[object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # NumPy's own words
        tensor(datatype, [1], elements)


def test_responses_are_joined() -> None:
    text = [{"t": tensor("BYTES", [1], [part])} for part in ("a", "", "bc")]
    assert joined(text)["t"].array.tolist() == [b"abc"]
    numbers = [{"n": tensor("FP16", [1, 2], [1, 2])}, {"n": tensor("FP16", [1], [3])}]
    assert joined(numbers)["n"].array.tolist() == [1, 2, 3]
    assert joined(numbers)["n"].datatype == "FP16"
    assert joined(numbers[:1])["n"].array.shape == (1, 2)
    assert joined([]) == {}
    with pytest.raises(ValueError, match="t is BYTES and then FP16"):
        joined([text[0], {"t": tensor("FP16", [1], [1])}])
