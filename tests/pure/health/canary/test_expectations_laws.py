"""Any answer of a model can be judged; comparisons agree with numpy's."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from sidecar.health.canary.expectations import (
    AllClose,
    Contains,
    Cosine,
    Datatype,
    Equals,
    Expectation,
    Finite,
    Image,
    Label,
    Length,
    NotDegenerate,
    Regex,
    Shape,
    broken_by,
)
from sidecar.triton.api import Tensor
from tests.support.answers import CLOSE, INF, NAN, PERSON, answer, image, striped

_ELEMENTS: dict[str, Callable[[], st.SearchStrategy[NDArray[np.generic]]]] = {
    "BOOL": lambda: arrays.arrays(np.bool_, _shapes()),
    "INT64": lambda: arrays.arrays(np.int64, _shapes()),
    "UINT8": lambda: arrays.arrays(np.uint8, _shapes()),
    "FP16": lambda: arrays.arrays(np.float16, _shapes()),
    "FP32": lambda: arrays.arrays(np.float32, _shapes()),
    "FP64": lambda: arrays.arrays(np.float64, _shapes()),
    "BYTES": lambda: arrays.arrays(np.object_, _shapes(), elements=_garbage()),
}


def _shapes() -> st.SearchStrategy[tuple[int, ...]]:
    images = st.sampled_from([(2, 2, 3), (3, 2, 2), (1, 3, 4, 4), (0, 2, 3)])
    return arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4) | images


def _garbage() -> st.SearchStrategy[bytes]:
    encoded = image(striped(3, 3))
    damaged = st.builds(
        lambda at, byte: encoded[:at] + bytes([byte]) + encoded[at + 1 :],
        st.integers(0, len(encoded)),
        st.integers(0, 255),
    )
    values = st.recursive(st.none() | st.floats() | st.text(), st.lists)
    return (
        st.binary() | damaged | st.text().map(str.encode) | values.map(json.dumps).map(str.encode)
    )


ANSWERS = st.sampled_from(sorted(_ELEMENTS)).flatmap(
    lambda datatype: st.builds(Tensor, st.just(datatype), _ELEMENTS[datatype]())
)
EVERY = [
    Datatype("o", "FP32"),
    Shape("o", (-1, 2)),
    Length("o", 1, 3),
    Equals("o", ("a",)),
    Equals("o", (1.5, 2)),
    Contains("o", ("a",)),
    Regex("o", "a+$"),
    PERSON,
    NotDegenerate("o"),
    Finite("o"),
    CLOSE,
    AllClose("o", (INF, -INF), 0.0, 1e308),
    Cosine("o", (1.0, 2.0)),
    Cosine("o", (0.0, NAN)),
    Label("o", 1),
    Label("o", "a"),
    Image("o", 2, 2),
]


@pytest.mark.parametrize("expectation", EVERY)
@given(given_tensor=ANSWERS)
def test_any_answer_is_judged(expectation: Expectation, given_tensor: Tensor) -> None:
    found = broken_by([expectation], answer(given_tensor))
    assert found is None or len(found[1].splitlines()) == 1


NUMBERS = arrays.arrays(np.float64, arrays.array_shapes(max_dims=2, max_side=4))


@given(st.data(), st.sampled_from([0.0, 1e-9, 1e-3, 1.0]), st.sampled_from([0.0, 1e-4, 0.5]))
def test_allclose_agrees_with_numpy(data: st.DataObject, atol: float, rtol: float) -> None:
    expected = data.draw(NUMBERS)
    noise = data.draw(arrays.arrays(np.float64, expected.shape, elements=st.floats(-1e-3, 1e-3)))
    with np.errstate(all="ignore"):
        got = expected * (1 + noise) if data.draw(st.booleans()) else expected + noise
        agrees = bool(np.allclose(got, expected, rtol=rtol, atol=atol))
    expectation = AllClose("o", expected, atol, rtol)
    assert (broken_by([expectation], answer(Tensor("FP64", got))) is None) == agrees


@given(arrays.arrays(np.float64, 3, elements=st.floats(0.1, 100)), st.floats(1e-100, 1e100))
def test_a_scaled_vector_has_the_same_direction(vector: NDArray[np.float64], length: float) -> None:
    scaled = answer(Tensor("FP64", vector * length))
    assert broken_by([Cosine("o", vector, 1.0)], scaled) is None
    assert broken_by([Cosine("o", -vector, -0.999)], scaled)
