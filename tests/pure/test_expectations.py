import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.health.expectations import AllClose, Equals, Expectation, judge

TEXT = {"text": np.array([b"One slow reply"], dtype=np.object_)}


def vector(*values: float) -> dict[str, np.ndarray]:
    return {"v": np.array(values, dtype=np.float32)}


CLOSE = AllClose("v", (1.0, 2.0), atol=1e-3, rtol=0.0)


@pytest.mark.parametrize(
    ("expectation", "outputs"),
    [
        (Equals("text", ("One slow reply",)), TEXT),
        (Equals("n", (1, 2, 3, 4)), {"n": np.array([[1, 2], [3, 4]], dtype=np.int64)}),
        (Equals("b", (True, False)), {"b": np.array([True, False])}),
        (CLOSE, vector(1.0005, 1.9995)),
    ],
)
def test_a_right_answer_has_no_fault(
    expectation: Expectation, outputs: dict[str, np.ndarray]
) -> None:
    assert judge([expectation], outputs) is None


@pytest.mark.parametrize(
    ("expectation", "outputs", "fault"),
    [
        (Equals("text", ("Two",)), TEXT, "text: expected 'Two', got 'One slow reply'"),
        (Equals("other", ("",)), TEXT, "other: expected an output of this name, got none"),
        (Equals("text", ("a", "b")), TEXT, "text: expected 2 elements, got 1"),
        (
            CLOSE,
            vector(1.0, 2.5),
            "v: 1 of 2 elements out of tolerance; the first is [1]: expected 2, got 2.5",
        ),
        (
            CLOSE,
            vector(float("nan"), 2.0),
            "v: 1 of 2 elements out of tolerance; the first is [0]: expected 1, got nan",
        ),
        (CLOSE, vector(1.0), "v: expected 2 elements, got 1"),
        (CLOSE, {"v": np.array([b"1", b"2"], dtype=np.object_)}, "v: expected numbers, got object"),
    ],
)
def test_a_fault_says_what_was_expected_and_what_came(
    expectation: Expectation, outputs: dict[str, np.ndarray], fault: str
) -> None:
    assert judge([expectation], outputs) == fault


def test_text_that_is_no_utf8_is_a_fault_and_no_crash() -> None:
    outputs = {"text": np.array([b"\xff\xfe"], dtype=np.object_)}
    assert judge([Equals("text", ("hello",))], outputs)


def test_a_long_answer_is_cut() -> None:
    outputs = {"text": np.array([b"x" * 100_000], dtype=np.object_)}
    fault = judge([Equals("text", ("hello",))], outputs)
    assert fault
    assert len(fault) < 300


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_allclose_agrees_with_numpy(values: list[float]) -> None:
    expected = tuple(float(value) for value in values)
    moved = np.array(values, dtype=np.float64) * (1 + 1e-4)
    expectation = AllClose("v", expected, atol=1e-6, rtol=1e-4 / 2)
    agrees = bool(np.allclose(moved, expected, atol=1e-6, rtol=1e-4 / 2))
    assert (judge([expectation], {"v": moved}) is None) == agrees
