"""Envoy's validation of the bootstrap and of the generated configuration."""

import pytest
import yaml

from sidecar.local.programs import parts
from sidecar.xds.config.edge import Edge
from tests.checks import validate_envoy

pytestmark = pytest.mark.integration


def test_envoy_accepts_the_bootstrap_and_all_generated_configurations() -> None:
    assert list(validate_envoy.problems(parts.find("envoy"))) == []


def test_a_rejected_configuration_is_reported() -> None:
    found = list(validate_envoy.problems(parts.find("envoy"), Edge(max_concurrent_streams=0)))
    assert len(found) == len(validate_envoy.CATALOGS) + len(validate_envoy.POLICIES)
    assert all("MaxConcurrentStreams" in problem for problem in found)


def test_the_bootstrap_has_only_resources_that_ads_cannot_provide() -> None:
    bootstrap = yaml.safe_load(validate_envoy.BOOTSTRAP.read_text())
    static = bootstrap["static_resources"]
    assert static.keys() == {"clusters"}
    assert [cluster["name"] for cluster in static["clusters"]] == ["control_plane"]
    assert bootstrap["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"
