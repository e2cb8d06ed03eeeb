"""What a drill and the process of its load tell each other."""

import json

import numpy as np
import pytest

from sidecar.drill.load.messages import (
    Counts,
    Order,
    Report,
    order_line,
    read_order,
    read_report,
    report_line,
)
from sidecar.drill.samples import Sample
from sidecar.health.canary.definition import Canary
from sidecar.health.canary.expectations import AllClose, Contains, Equals, JsonSchema, Regex
from sidecar.triton.api import Tensor

EXPECTED = (
    AllClose("out", np.array([1.0]), 0.1, 0.1),
    Contains("out", ("a",)),
    Equals("out", ("a",)),
    JsonSchema("out", {"type": "object"}),
    Regex("out", "a+"),
)


def test_an_order_survives_the_pipe_with_its_canaries() -> None:
    step = {"in": Tensor("FP32", np.ones((2, 2), np.float32))}
    canary = Canary("mine", (step,), EXPECTED)
    order = Order("rate=1", "a:1", "b:2", 3.5, 7, (canary,))
    line = order_line(order)
    assert line.count(b"\n") == 1
    [found] = read_order(line).canaries
    assert [type(each) for each in found.expectations] == [type(each) for each in EXPECTED]
    assert found.steps[0]["in"].array.tolist() == [[1, 1], [1, 1]]
    plain = Order("rate=1", "a:1", "b:2", 3.5, 7, cached=True)
    assert read_order(order_line(plain)) == plain


def test_a_report_survives_the_pipe() -> None:
    samples = [Sample("stream", 1, 0.5, 2.0, "answered", "b", 'ü\n"', "a")]
    report = Report(samples, Counts(1, 2, 3, 0.5), ended=True, error="no", mistaken=True)
    line = report_line(report)
    assert line.count(b"\n") == 1
    assert read_report(line) == report


def test_half_a_report_is_refused() -> None:
    line = report_line(Report([Sample("unary", 1, 0.5, 2.0, "answered")]))
    with pytest.raises(json.JSONDecodeError):
        read_report(line[:20])
