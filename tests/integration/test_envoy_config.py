"""Envoy's own opinion of the bootstrap and of what we generate."""

from dataclasses import replace

import pytest
import yaml

from sidecar.local import parts
from sidecar.xds.policy import TrafficPolicy
from tests import validate_envoy

pytestmark = pytest.mark.integration


def test_envoy_accepts_everything() -> None:
    assert list(validate_envoy.problems(parts.find("envoy"))) == []


def test_what_envoy_refuses_is_found() -> None:
    bad = replace(TrafficPolicy(), max_ejection_percent=500)
    found = list(validate_envoy.problems(parts.find("envoy"), bad))
    assert len(found) == len(validate_envoy.CATALOGS)
    assert all("MaxEjectionPercent" in problem for problem in found)


def test_the_bootstrap_holds_only_what_cannot_come_by_ads() -> None:
    bootstrap = yaml.safe_load(validate_envoy.BOOTSTRAP.read_text())
    static = bootstrap["static_resources"]
    assert static.keys() == {"clusters"}
    assert [cluster["name"] for cluster in static["clusters"]] == ["control_plane"]
    assert bootstrap["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"
