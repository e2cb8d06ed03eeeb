"""The reasons for an instance's placement."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.traffic.policy import DEFAULTS, Locality, Mode, Release, RoutingMode, TrafficPolicy
from sidecar.xds.api.explain import (
    Explanation,
    RetainedState,
    explain,
)
from sidecar.xds.catalog.catalog import Catalog, Health, Instance, Leader, ServiceCatalog
from sidecar.xds.config.edge import Edge
from sidecar.xds.config.endpoints import Placement, assign
from sidecar.xds.config.snapshot import build
from tests.support.traffic_policies import policies

BY_MODEL = replace(DEFAULTS, routing=RoutingMode.BY_MODEL)
VANISHED = "2023-11-14T22:13:20.000Z"
A = Instance("a", "10.0.0.1", 8001, 9001)
B = Instance("b", "10.0.0.2", 8001, 9001, tags=("new",), zone="z2")
FAR = Instance("dc2/c", "10.1.0.1", 8001, 9001, datacenter="dc2")
STRICT = replace(DEFAULTS, mode=Mode.STRICT)
SHARED = replace(DEFAULTS, mode=Mode.ACTIVE_ACTIVE)
WEIGHTED = replace(DEFAULTS, mode=Mode.WEIGHTED, weights=(("a", 3),))
RELEASING = replace(DEFAULTS, release=Release(tag="new", percent=10))
NEAR = replace(DEFAULTS, locality=Locality(prefer_zone=True, datacenters=("dc2",)))
LED = Leader("a", 42)


def why(
    instance: str,
    *instances: Instance,
    policy: TrafficPolicy = DEFAULTS,
    leader: Leader | None = LED,
    belief: RetainedState | None = None,
    zone: str = "",
) -> tuple[Explanation, ...]:
    service = ServiceCatalog("triton", instances, leader, policy=policy)
    return explain(service, assign(service, zone), belief or RetainedState(), instance, zone)


def test_an_instance_gets_requests_for_the_models_that_it_may_serve() -> None:
    ill = replace(A, models=("chat", "embed"), unusable=(("chat", "CANARY_FAILED"),))
    service = ServiceCatalog("triton", (ill, replace(B, models=("chat",))), LED, policy=BY_MODEL)
    found = build(Catalog((service,)), Edge()).assignments
    [explained] = explain(service, found, RetainedState(), "a")
    assert "routing by-model: gets requests for embed" in explained.why
    assert "gets no requests for chat: CANARY_FAILED" in explained.why


@pytest.mark.parametrize(
    ("name", "instances", "policy", "priority", "words"),
    [
        ("a", (A, B), DEFAULTS, 0, "it is the primary of epoch 42"),
        ("b", (A, B), DEFAULTS, 1, "stands by: usable, and a is primary of epoch 42"),
        ("b", (A, replace(B, health=Health.CRITICAL)), DEFAULTS, None, "critical in Consul"),
        ("b", (A, replace(B, draining=True)), DEFAULTS, None, "in maintenance mode"),
        (
            "a",
            (replace(A, draining=True, hands_over=True), B),
            DEFAULTS,
            1,
            "taken out of service: comes last until another instance serves",
        ),
        ("a", (A, B), STRICT, 0, "it is the primary of epoch 42"),
        ("b", (A, B), STRICT, None, "gets no requests: mode strict, and it is not primary"),
        ("b", (A, B), SHARED, 0, "all usable instances share the requests"),
        ("a", (A, B), WEIGHTED, 0, "the policy gives it a weight"),
        ("b", (A, B), WEIGHTED, 1, "comes after the instances that have a weight"),
        ("dc2/c", (A, FAR), NEAR, 1, "in datacenter dc2: comes after local instances"),
        ("b", (A, B), NEAR, 1, "in z2, with Envoy in z1: comes after instances in that zone"),
        (
            "a",
            (replace(A, health=Health.WARNING, percent=10), B),
            DEFAULTS,
            0,
            "in warning: 10 % of its usual weight",
        ),
    ],
)
def test_each_placement_has_its_reason(
    name: str,
    instances: tuple[Instance, ...],
    policy: TrafficPolicy,
    priority: int | None,
    words: str,
) -> None:
    [found] = why(name, *instances, policy=policy, zone="z1")
    assert found.placement is not None
    assert found.placement.priority == priority
    assert words in "; ".join(found.why)


def test_a_release_gives_an_instance_one_placement_per_cluster() -> None:
    stable, released = why("b", A, B, policy=RELEASING)
    assert stable.placement == Placement(1, 1)
    assert stable.why[1] == "90 % of the requests are for the other instances"
    assert stable.why[2] == "it belongs to the release: here it comes after all other instances"
    assert released.placement == Placement(0, 1)
    assert released.why[1] == "10 % of the requests are for the release, and this is one of them"
    stable, released = why("a", A, B, policy=RELEASING)
    assert (
        stable.why[1] == "90 % of the requests are for the other instances, and this is one of them"
    )
    assert released.placement == Placement(1, 1)


def test_of_two_instances_with_one_address_one_counts() -> None:
    ghost = replace(B, address=A.address, health=Health.CRITICAL)
    [found] = why("b", A, ghost)
    assert found.placement is None
    assert "; ".join(found.why).startswith("not listed: a has the same address")
    [found] = why("0", A, replace(ghost, id="0"))
    assert "; ".join(found.why).startswith("not listed: a has the same address")


def test_an_instance_that_is_retained_despite_the_catalog_is_explained() -> None:
    silent = RetainedState(missing={"a": 1_700_000_000.0}, stale=True, refused="mode: expected ...")
    [found] = why("a", A, B, belief=silent)
    assert found.why[1:] == (
        f"kept although it vanished from the catalog at {VANISHED}: it does not answer",
        "Consul has not confirmed it since this control plane started",
        "the policy in Consul is ignored: mode: expected ...",
    )
    [found] = why("a", A, belief=replace(silent, serving=frozenset({"a"})))
    assert found.why[1].endswith("it reports that it serves")


def test_an_unknown_instance_has_no_placement_but_may_have_an_entry() -> None:
    assert why("x", A) == ()
    [found] = why("x", A, belief=RetainedState(skipped={"x": "port 0: expected a port number"}))
    assert found.placement is None
    assert found.why == ("its entry in the catalog: port 0: expected a port number",)


def test_an_unsettled_service_has_no_explanation() -> None:
    service = ServiceCatalog("triton", (A,), settled=False)
    [found] = explain(service, {}, RetainedState(), "a")
    assert found.placement is None
    assert "too little is known" in found.why[0]


@given(
    policies(),
    st.sampled_from([None, Leader("a", 1), Leader("gone", 2)]),
    st.lists(st.sampled_from([A, B, FAR, replace(A, draining=True)]), unique_by=lambda i: i.id),
    st.sampled_from(["", "z2"]),
)
def test_every_listed_instance_has_a_reason_in_every_cluster(
    policy: TrafficPolicy, leader: Leader | None, instances: list[Instance], zone: str
) -> None:
    service = ServiceCatalog("triton", tuple(instances), leader, policy=policy)
    assignments = assign(service, zone)
    for instance in instances:
        found = explain(service, assignments, RetainedState(), instance.id, zone)
        assert [each.cluster for each in found] == list(assignments)
        assert all(each.why and each.placement for each in found)
