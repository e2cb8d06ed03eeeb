"""Envoy's validation of the configuration for random policies."""

import json
from dataclasses import replace

import pytest
import yaml
from hypothesis import HealthCheck as Check
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sidecar.local.programs import parts
from sidecar.traffic import document
from sidecar.traffic.policy import TrafficPolicy
from sidecar.xds.catalog.catalog import Catalog, Health, Instance, Leader, ServiceCatalog
from sidecar.xds.config.edge import Edge
from sidecar.xds.config.snapshot import build
from tests.checks import validate_envoy
from tests.support.soak import times
from tests.support.traffic_policies import policies

pytestmark = pytest.mark.integration

_SERVICES = 30  # in one configuration, each with a different policy
_ROUNDS = times(2, soaking=30)  # of Envoy, which takes half a second for each

INSTANCES = st.lists(
    st.builds(
        lambda number, health, draining, facts: Instance(
            f"i{number}", f"10.0.0.{number}", 8001, 9001, health, draining, **facts
        ),
        st.integers(1, 6),
        st.sampled_from(Health),
        st.booleans(),
        st.fixed_dictionaries(
            {
                "weight": st.integers(1, 65_535),
                "tags": st.sampled_from([(), ("v2",), ("primary", "v1")]),
                "model_set": st.sampled_from(["", "files-0123456789abcdef"]),
                "zone": st.sampled_from(["", "east", "west"]),
                "datacenter": st.sampled_from(["", "dc2", "dc3"]),
                "capacity": st.sampled_from([0, 1, 64]),
            }
        ),
    ),
    unique_by=lambda instance: instance.id,
    max_size=6,
).map(tuple)
LEADERS = st.none() | st.builds(Leader, st.sampled_from(["i1", "i2", "gone"]), st.integers(1, 9))


def matching_instances(policy: TrafficPolicy) -> TrafficPolicy:
    """The policy with weights and a release that match some of the instances."""
    release = policy.release
    return replace(
        policy,
        weights=tuple((f"i{n}", weight) for n, (_, weight) in enumerate(policy.weights, 1)),
        release=replace(release, model_set="", tag="v2") if release else None,
    )


def services(count: int) -> st.SearchStrategy[tuple[ServiceCatalog, ...]]:
    each = st.tuples(INSTANCES, LEADERS, st.booleans(), policies().map(matching_instances))
    return st.lists(each, min_size=count, max_size=count).map(
        lambda drawn: tuple(
            ServiceCatalog(f"service-{number}", *facts) for number, facts in enumerate(drawn)
        )
    )


@settings(
    max_examples=_ROUNDS,
    deadline=None,
    derandomize=True,
    # Shrinking would take minutes, and a failing example is readable as it is drawn.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[Check.too_slow, Check.data_too_large, Check.large_base_example],
)
@given(services(_SERVICES), st.sampled_from(["", "east"]))
def test_envoy_accepts_every_policy_that_the_document_allows(
    drawn: tuple[ServiceCatalog, ...], zone: str
) -> None:
    for service in drawn:
        assert document.parse(document.dump(service.policy)) == service.policy
    snapshot = build(Catalog(drawn, zone), Edge())
    bootstrap = yaml.safe_load(validate_envoy.BOOTSTRAP.read_text())
    config = validate_envoy.as_static(snapshot, bootstrap)
    assert not list(validate_envoy.rejections(parts.find("envoy"), json.dumps(zone), config))
