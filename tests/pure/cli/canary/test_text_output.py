"""What `canary list` shows of a canary: short, whatever it contains."""

import json
from collections.abc import Mapping

import numpy as np
import pytest

from sidecar.cli.canary.files import Described
from sidecar.cli.canary.text_output import document, listing, results
from sidecar.health.canary.definition import Budgets, Canary
from sidecar.health.canary.examine import Examined
from sidecar.health.canary.expectations import (
    AllClose,
    Equals,
    Expectation,
    Image,
    JsonSchema,
    Label,
    Length,
)
from sidecar.triton.api import Answer, Tensor
from sidecar.triton.tensors import tensor
from sidecar.verdict.evidence import Finding, Layer, Reason

TEXT = tensor("BYTES", [1], ["Say [hello] " * 20])


def shown(capsys: pytest.CaptureFixture[str], *expectations: Expectation, **inputs: Tensor) -> str:
    steps: tuple[Mapping[str, Tensor], ...] = (inputs or {"text": TEXT},)
    canary = Canary("m", steps, expectations, budgets=Budgets(warn=0.5))
    listing(Described([canary], {"m": "canaries/m.toml"}), False)
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


@pytest.mark.parametrize(
    ("expectation", "text"),
    [
        (Equals("out", ("yes", 1)), "out: equals ['yes', 1]"),
        (Length("out", 2, 9), "out: length least 2, most 9"),
        (Length("out", 2), "out: length least 2 "),
        (Label("out", 3), "out: label 3"),
        (Image("out", 8, 9), "out: image min_width 8, min_height 9"),
        (JsonSchema("out", {"type": "object"}), 'out: json_schema {"type": "object"}'),
        (AllClose("out", np.ones(2), 0.5, 0.25), "out: allclose [1.0, 1.0], atol 0.5, rtol 0.25"),
    ],
)
def test_each_expectation_is_shown_with_its_values(
    capsys: pytest.CaptureFixture[str], expectation: Expectation, text: str
) -> None:
    assert text in shown(capsys, expectation)


def test_inputs_file_and_budgets_are_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = shown(capsys, x=tensor("FP32", [2], [1.0, 2.0]))
    for part in ("x FP32 [2] [1.0, 2.0]", "canaries/m.toml", "timeout 2 s", "warn 0.5 s"):
        assert part in text


def test_long_values_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(
        capsys,
        Equals("a", tuple(range(10**6))),
        AllClose("b", np.arange(10**6, dtype=np.float64), 0.0, 0.0),
        JsonSchema("c", {"enum": ["x" * 10**6]}),
        x=Tensor("FP32", np.zeros(10**6, np.float32)),
        y=TEXT,
    )
    assert len(text) < 1500
    assert "Say [hello] Say" in text
    assert "…" in text


def test_brackets_in_a_model_s_answer_are_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    finding = Finding(Layer.CANARY, "m[red]", Reason.CANARY_WRONG_ANSWER, "got '[/bold] 4'")
    results([Examined(finding, Answer({}, first=0.1, seconds=0.25))], False)
    text = capsys.readouterr().out
    for part in ("m[red]", "[/bold] 4", "fails", "0.100 s", "0.250 s"):
        assert part in text


def test_json_output_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    document([Examined(Finding(Layer.CANARY, "m", Reason.OK), Answer({}, seconds=0.5))])
    found = json.loads(capsys.readouterr().out)
    assert found["done"]
    assert "why" not in found
    assert found["canaries"][0]["ok"]
    assert found["canaries"][0]["seconds"] == 0.5
    document([Examined(Finding(Layer.CANARY, "m", Reason.CANARY_LATE, "late"), None)])
    found = json.loads(capsys.readouterr().out)
    assert (found["done"], found["why"]) == (False, "m: CANARY_LATE: late")
