"""The Prometheus alerts: they use existing metrics, and link to the runbook."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.telemetry.metrics import MetricsHook
from sidecar.xds.metrics import ControlPlaneMetrics

ROOT = Path(__file__).parents[3]
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
SUFFIXES = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def exported() -> Iterator[str]:
    for registry in (MetricsHook(["standby"]).registry, ControlPlaneMetrics().registry):
        for metric in registry.collect():
            yield from (metric.name + suffix for suffix in SUFFIXES[metric.type])


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_each_alert(rule: dict[str, Any]) -> None:
    asked = set(re.findall(r"\b(?:triton_\w+|up)\b", rule["expr"]))
    assert asked
    assert asked <= {"up", *exported()}
    assert rule["labels"]["severity"] in {"info", "warning", "critical"}
    notes = rule["annotations"]
    assert notes.keys() == {"summary", "description", "runbook"}
    assert all(notes.values())
    path, _, anchor = notes["runbook"].partition("#")
    assert anchor == rule["alert"].lower()
    assert anchor in anchors(ROOT / path)


def test_every_section_of_the_runbook_belongs_to_an_alert() -> None:
    names = [rule["alert"] for rule in rules()]
    text = (ROOT / "docs" / "notifications.md").read_text()
    assert re.findall(r"^### (Triton\w+)$", text, re.MULTILINE) == names


def test_label_values_in_rules_can_occur() -> None:
    """An alert with a typo in a label's value would never fire."""
    registry = MetricsHook(["standby", "promoting", "primary", "primary (unconfirmed)"]).registry
    found = {
        (sample.name, *pair)
        for metric in registry.collect()
        for sample in metric.samples
        for pair in sample.labels.items()
    }
    selector = re.compile(r'(triton_sidecar_(?:role|verdict|recovery))\{(\w+)(!?=~?)"([^"]+)"')
    asked = [match for rule in rules() for match in selector.findall(rule["expr"])]
    assert len(asked) >= 6
    for metric, label, operator, values in asked:
        for value in values.split("|") if "~" in operator else [values]:
            assert (metric, label, value) in found
