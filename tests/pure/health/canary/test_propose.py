"""What a recorded canary expects of later answers."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from sidecar.health.canary.expectations import broken_by
from sidecar.health.canary.propose import differences, file_name, files_of, inputs, latency, propose
from sidecar.settings.canaries import build
from sidecar.settings.tables.canary import CanarySettings
from sidecar.triton.api import Answer, ModelDescription, Tensor, TensorSpec
from sidecar.triton.tensors import tensor

STEM = "canary"


def text(*texts: str | bytes) -> list[Answer]:
    return [Answer({"out": tensor("BYTES", [1], [each])}) for each in texts]


def numbers(*rows: list[float], datatype: str = "FP32") -> list[Answer]:
    return [Answer({"out": tensor(datatype, [1, len(row)], row)}) for row in rows]


def expected(answers: list[Answer]) -> dict[str, Any]:
    (table,) = propose(answers, STEM).expect
    return dict(table)


def fault(recorded: list[Answer], later: Answer) -> str | None:
    """The recorded canary's verdict on a later answer, after a round trip through the settings."""
    asked = {"name": "in", "datatype": "BOOL", "shape": [1], "data": [True]}
    settings = {"inputs": [asked], "expect": propose(recorded, STEM).expect}
    canary = build("m", CanarySettings.model_validate(settings))
    found = broken_by(canary.expectations, later)
    return found[1] if found else None


def test_the_same_text_each_time_is_expected_exactly() -> None:
    recorded = text("2 + 2 = 4", "2 + 2 = 4")
    assert expected(recorded)["equals"] == ["2 + 2 = 4"]
    assert propose(recorded, STEM).repeatable
    assert fault(recorded, recorded[0]) is None
    assert "equals" in (fault(recorded, text("2 + 2 = 5")[0]) or "")


def test_of_different_texts_only_the_form_is_expected() -> None:
    recorded = text("The cat sat on a mat.", "A dog ran over the hill.")
    proposal = propose(recorded, STEM)
    assert not proposal.repeatable
    assert "2 different answers in 2: 'The cat" in proposal.remarks[0]
    assert "equals" not in expected(recorded)
    assert fault(recorded, text("Birds fly south in autumn.")[0]) is None
    assert "not_degenerate" in (
        fault(recorded, text("no no no no no no no no no no no no")[0]) or ""
    )
    assert "length" in (fault(recorded, text("x y " * 100)[0]) or "")


def test_degenerate_answers_are_not_recorded_as_good() -> None:
    proposal = propose(text("", " "), STEM)
    assert "not_degenerate" not in proposal.expect[0]
    assert "try other inputs" in proposal.remarks[-1]


def _png(value: int) -> bytes:
    buffer = io.BytesIO()
    Pillow.fromarray(np.arange(value, value + 48, dtype=np.uint8).reshape(6, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_an_encoded_image_is_expected_to_be_one() -> None:
    assert expected(text(_png(10), _png(200)))["image"] is True
    assert "image" not in expected(text(_png(10)[:20], _png(200)[:20]))


def test_tolerances_follow_the_spread_and_have_a_minimum() -> None:
    same = expected(numbers([1, -2, 0], [1, -2, 0]))
    assert same["allclose"] == [1, -2, 0]
    assert (same["atol"], same["rtol"]) == (2e-5, 1e-4)
    spread = expected(numbers([1.0, 2.0], [1.0, 2.01]))
    assert spread["atol"] == pytest.approx(0.03, rel=0.4)
    assert spread["atol"] >= 0.03
    assert expected(numbers([1, -2], [1, -2], datatype="FP16"))["rtol"] == 1e-2


def test_a_recorded_canary_detects_a_wrong_number() -> None:
    recorded = numbers([1.0, 2.0], [1.001, 2.0])
    assert fault(recorded, numbers([1.002, 2.0])[0]) is None
    assert "allclose" in (fault(recorded, numbers([1.0, 2.5])[0]) or "")


def test_vectors_that_scatter_keep_their_direction() -> None:
    # Each element may be far from its own mean, yet all point the same way.
    base = np.linspace(1, 2, 50)
    scattered = numbers([*base], [*(base * 1.5)])
    proposal = propose(scattered, STEM)
    assert not proposal.repeatable
    assert expected(scattered).keys() == {
        "output", "datatype", "shape", "finite", "cosine", "at_least"
    }  # fmt: skip
    assert fault(scattered, numbers([*(base * 3)])[0]) is None
    assert "cosine" in (fault(scattered, numbers([*(-base)])[0]) or "")


def test_noise_is_only_expected_to_be_finite() -> None:
    noise = numbers([1, -1, 3], [-2, 4, -3])
    assert expected(noise).keys() == {"output", "datatype", "shape", "finite"}
    assert "finite" in (fault(noise, numbers([1, float("nan"), 3])[0]) or "")


def test_nan_is_not_recorded_as_correct() -> None:
    proposal = propose(numbers([1, float("nan")]), STEM)
    assert proposal.expect == [{"output": "out", "datatype": "FP32", "shape": [1, 2]}]
    assert "NaN" in proposal.remarks[0]


def test_scores_that_are_always_masked_are_expected_to_be() -> None:
    inf = float("inf")
    recorded = numbers([1, -inf, inf], [1.0001, -inf, inf])
    assert expected(recorded).keys() == {
        "output", "datatype", "shape", "allclose", "atol", "rtol"
    }  # fmt: skip
    assert expected(recorded)["allclose"][1:] == [-inf, inf]
    assert fault(recorded, numbers([1, -inf, inf])[0]) is None
    for wrong in ([2, -inf, inf], [1, 0, inf], [1, inf, -inf], [1, -inf, float("nan")]):
        assert "allclose" in (fault(recorded, numbers([*map(float, wrong)])[0]) or "")
    masked = numbers([-inf, -inf], [-inf, -inf])
    assert fault(masked, masked[0]) is None
    assert "allclose" in (fault(masked, numbers([0, -inf])[0]) or "")
    assert expected(numbers([1, -inf], [1, 2])).keys() == {"output", "datatype", "shape"}
    assert expected(numbers([1, 2], [1, -inf])).keys() == {"output", "datatype", "shape"}
    assert expected(numbers([1, -inf], [90, -inf])).keys() == {"output", "datatype", "shape"}


def test_differences_between_answers_and_config_are_reported() -> None:
    def compared(shape: tuple[int, ...], *answers: Answer, decoupled: bool = False) -> list[str]:
        spec = TensorSpec("out", "FP32", shape)
        described = ModelDescription("m", outputs=(spec,), decoupled=decoupled)
        return differences(described, answers)

    one = numbers([1.0])[0]
    assert (
        compared((1, 1), one) == compared((-1, 1), one) == compared((5,), one, decoupled=True) == []
    )
    assert compared((1,), one, one) == [
        "out: answered as FP32 [1, 1], though its config says FP32 [1]"
    ]
    wider = numbers([1.0], datatype="FP64")[0]
    assert compared((1, 1), one, wider) == [
        "out: answered as FP64 [1, 1], though its config says FP32 [1, 1]"
    ]
    assert compared((1,), Answer({})) == ["out: in no answer, though its config says FP32 [1]"]


def test_integers_are_expected_exactly_or_not_at_all() -> None:
    assert expected(numbers([1, 2], [1, 2], datatype="INT64"))["equals"] == [1, 2]
    differing = numbers([1, 2], [1, 3], datatype="INT64")
    assert expected(differing).keys() == {"output", "datatype", "shape"}
    assert not propose(differing, STEM).repeatable


def test_dimensions_that_vary_are_left_open() -> None:
    varying = numbers([1, 2], [1, 2, 3])
    assert expected(varying)["shape"] == [1, -1]
    assert "from 2 to 3 elements" in propose(varying, STEM).remarks[0]


def test_an_output_that_is_missing_in_some_answers_is_left_out() -> None:
    proposal = propose([*text("a"), Answer({})], STEM)
    assert proposal.expect == []
    assert "only in 1 of 2 answers" in proposal.remarks[0]


def test_long_values_go_into_files() -> None:
    proposal = propose(numbers([*range(1000)]), STEM)
    assert proposal.expect[0]["allclose"] == "canary.out.npy"
    assert proposal.arrays["canary.out.npy"].tolist() == [*range(1000)]
    tables, arrays = inputs({"in/a": tensor("FP32", [1000], [1.0] * 1000)}, STEM)
    assert tables == [
        {"name": "in/a", "datatype": "FP32", "shape": [1000], "file": "canary.input.in%2Fa.npy"}
    ]
    assert arrays.keys() == {file_name(STEM, "in/a", is_input=True)}


def test_files_that_were_written_with_a_canary_are_recognized() -> None:
    table = {
        "inputs": [{"name": "a", "file": "canary.input.a.npy"}, {"file": "canary.mine.npy"}],
        "steps": [[{"name": "b", "file": "canary.input.b%2F.npy"}]],
        "expect": [
            {"output": "x", "allclose": "canary.x.npy"},
            {"output": "y", "cosine": [1.0], "contains": "canary.no.npy"},
            {"output": "z", "cosine": "../canary.z.npy", "allclose": "other.z.npy"},
        ],
    }
    assert files_of({"m": table}, STEM) == {
        "canary.input.a.npy", "canary.input.b%2F.npy", "canary.x.npy"
    }  # fmt: skip


@given(st.text(min_size=1), st.booleans(), st.text(min_size=1), st.booleans())
def test_no_two_tensors_share_a_file(a: str, asked: bool, b: str, other: bool) -> None:
    one, two = file_name(STEM, a, asked), file_name(STEM, b, other)
    assert (one == two) == ((a, asked) == (b, other))
    table = {"file" if asked else "allclose": one}
    assert files_of(table, STEM) == {one}


def test_budgets_are_generous_and_ascending() -> None:
    answers = [Answer({}, first=0.5, seconds=1.0), Answer({}, first=0.2, seconds=2.0)]
    assert latency(answers, streamed=True) == {
        "timeout": 40.0,
        "latency": {"warn": 20.0, "fail": 40.0, "first_warn": 5.0, "first_fail": 10.0},
    }
    quick = latency([Answer({}, first=0.001, seconds=0.001)], streamed=False)
    assert quick == {"timeout": 2.0, "latency": {"warn": 0.5, "fail": 2.0}}


@given(st.floats(1e-6, 100), st.floats(0, 1), st.booleans())
def test_no_answer_within_a_recorded_budget_is_late(
    seconds: float, part: float, streamed: bool
) -> None:
    table = latency([Answer({}, first=part * seconds, seconds=seconds)], streamed)
    asked = {"name": "in", "datatype": "BOOL", "shape": [1], "data": [True]}
    expect = [{"output": "out", "finite": True}]
    canary = build(
        "m", CanarySettings.model_validate({"inputs": [asked], "expect": expect, **table})
    )
    budgets = canary.budgets
    assert budgets.warn is not None
    assert budgets.fail is not None
    assert seconds < budgets.warn < budgets.fail <= canary.timeout
    assert (budgets.first_fail or 0.0) <= canary.timeout


floats = st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=3, max_size=3)


@given(st.lists(floats, min_size=1, max_size=5))
def test_every_recorded_answer_passes(rows: list[list[float]]) -> None:
    recorded = numbers(*rows)
    for answer in recorded:
        assert fault(recorded, answer) is None


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=4))
def test_every_recorded_text_passes(texts: list[bytes]) -> None:
    recorded = [Answer({"out": tensor("BYTES", [1], [each])}) for each in texts]
    for answer in recorded:
        if not any(
            each.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM")) for each in texts
        ):
            assert fault(recorded, answer) is None


def test_float16_overflow_is_not_a_crash() -> None:
    huge = Answer({"out": Tensor("FP16", np.array([65504, -65504], np.float16))})
    assert fault([huge, huge], huge) is None
