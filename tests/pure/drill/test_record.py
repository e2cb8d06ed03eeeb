"""A drill's record as JSON."""

import json
from dataclasses import replace

import pytest

from sidecar.drill.record import (
    Environment,
    Figures,
    ProcessTrend,
    Record,
    Run,
    Violation,
    dumps,
    loads,
)
from sidecar.drill.samples import Mark, Sample
from sidecar.runtime.errors import ConfigError

ENVIRONMENT = Environment(
    "2026-01-02T03:04:05Z", "drill all", "a machine", "3 instances", 7, "open"
)
RUN = Run(
    "freeze",
    "Triton frozen",
    "No request fails.",
    1,
    "triton-0",
    "failed",
    figures=Figures(detection=0.5, sent=2, failed=1),
    violations=(Violation("failed", "0", "1"),),
    marks=(Mark(3.0, "injected", "triton-0"),),
    samples=(Sample("unary", 0, 1.0, 0.1, "answered", "triton-1"),),
)
RECORD = Record(ENVIRONMENT, {"rto": 1.0}, (RUN,))


def test_a_record_survives_being_stored() -> None:
    assert loads(dumps(RECORD), "r.json") == RECORD


def test_fields_of_a_newer_version_are_ignored() -> None:
    document = json.loads(dumps(RECORD))
    document["environment"]["new"] = document["runs"][0]["figures"]["new"] = 1
    document["runs"][0]["samples"]["new"] = [1]
    assert loads(json.dumps(document), "r.json") == RECORD


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1}', '{"version": 2}'])
def test_what_is_no_record_is_an_error_that_names_the_file(text: str) -> None:
    with pytest.raises(ConfigError, match=r"r\.json"):
        loads(text, "r.json")


def test_a_record_without_a_run_that_was_made_has_not_passed() -> None:
    skipped = Run("cut", "", "", 1, "", "skipped")
    assert not Record(ENVIRONMENT, {}, (skipped,)).passed
    assert Record(ENVIRONMENT, {}, (skipped, Run("crash", "", "", 1, "", "passed"))).passed
    assert not RECORD.passed


def test_the_processes_of_a_soak_survive_being_stored() -> None:
    trend = ProcessTrend("xds", 2, 600.0, 80 << 20, 1.5, 0.5, 3.0, 10, 12)
    soaked = replace(RECORD, processes=(trend,))
    assert loads(dumps(soaked), "r.json") == soaked


def test_a_record_of_before_soaks_has_no_processes() -> None:
    document = json.loads(dumps(RECORD))
    del document["processes"]
    assert loads(json.dumps(document), "r.json") == RECORD
