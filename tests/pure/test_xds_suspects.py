"""Who is suspected of taking instances down, for how long, and what Envoy is told."""

from dataclasses import replace
from typing import Any

import pytest
from envoy.config.route.v3 import route_pb2
from google.protobuf.json_format import MessageToDict

from sidecar.traffic.policy import DEFAULTS, Limits, Retry, TrafficPolicy
from sidecar.xds.catalog import Catalog, Instance, ServiceCatalog
from sidecar.xds.edge import Edge
from sidecar.xds.snapshot import CLUSTER, ORDER, ROUTE, build
from sidecar.xds.suspects import MOST, Suspects

A, B, C = ("10.0.0.1", 8001), ("10.0.0.2", 8001), ("10.0.0.3", 8001)
EDGE = Edge(quarantine=600.0)
CATALOG = Catalog((ServiceCatalog("triton", (Instance("a", *A, 9001),)),))


def test_nobody_is_suspected_who_was_nowhere() -> None:
    suspects = Suspects(600.0)
    assert suspects.accuse("one", (), 0.0) is None
    assert suspects.prints == frozenset()


def test_where_it_may_be_tried_is_where_it_was_first() -> None:
    suspects = Suspects(600.0)
    suspects.accuse("one", (A, B), 0.0)
    found = suspects.accuse("one", (C,), 1.0)
    assert found is not None
    assert found.endpoints == {A, B}


def test_a_proof_ends_it_or_begins_its_time_anew() -> None:
    suspects = Suspects(600.0)
    for name in ("answered", "guilty", "open"):
        suspects.accuse(name, (A, B), 0.0)
    suspects.acquit("answered")
    suspects.convict("guilty", 100.0)
    suspects.convict("unheard of", 100.0)
    assert suspects.prints == {"guilty", "open"}
    suspects.forget(600.0)
    assert suspects.prints == {"guilty"}
    suspects.forget(700.0)
    assert suspects.prints == frozenset()


def test_nobody_goes_on_because_it_took_long() -> None:
    suspects = Suspects(5.0)
    suspects.accuse("waits", (A, B), 0.0)
    suspects.accuse("left", (A, B), 0.0)
    suspects.forget(9.0, waiting={"waits"})
    assert suspects.prints == {"waits"}
    suspects.forget(9.0)
    assert suspects.prints == frozenset()


def test_none_is_let_go_for_others() -> None:
    suspects = Suspects(600.0)
    for number in range(MOST):
        suspects.accuse(str(number), (A, B), 0.0)
    with pytest.raises(OverflowError):
        suspects.accuse("one more", (A, B), 0.0)
    assert len(suspects.prints) == MOST


def told(policy: TrafficPolicy, suspects: frozenset[str]) -> list[Any]:
    """What the script learns from each route that goes anywhere, by name and by default."""
    message = route_pb2.RouteConfiguration()
    catalog = Catalog((replace(CATALOG.services[0], policy=policy),))
    [resource] = build(catalog, EDGE, {}, suspects).of(ROUTE).values()
    resource.body.Unpack(message)
    return [
        MessageToDict(route.metadata)["filterMetadata"]["envoy.filters.http.lua"]
        for host in message.virtual_hosts
        for route in host.routes
        if route.HasField("route")
    ]


def test_every_route_names_the_suspects_and_how_many_answers_are_wanted() -> None:
    policy = replace(DEFAULTS, retry=Retry(num_retries=2))
    said = told(policy, frozenset())
    assert said == [{"num_retries": 2}] * len(said)
    suspects = {"ab": True, "cd": True}
    looked_out_for = [{"num_retries": 2, "suspects": suspects}] * len(said)
    assert told(policy, frozenset(suspects)) == looked_out_for


def test_nothing_else_changes_with_the_suspects() -> None:
    before, after = build(CATALOG, EDGE), build(CATALOG, EDGE, {}, frozenset({"ab", "cd"}))
    # A cluster or a listener that changes would cut or forget what is in flight.
    assert [url for url in ORDER if before.of(url) != after.of(url)] == [ROUTE]


def test_switched_off_there_is_no_filter_and_no_further_attempt() -> None:
    on, off = build(CATALOG, EDGE), build(CATALOG, Edge())
    for snapshot, there in ((on, True), (off, False)):
        for type_url in (CLUSTER, ROUTE):
            [resource] = snapshot.of(type_url).values()
            assert (b"envoy.filters.http.lua" in resource.body.value) is there


@pytest.mark.parametrize(
    "policy",
    [
        replace(DEFAULTS, retry=Retry(idempotent=False)),
        replace(DEFAULTS, limits=Limits(per_try_idle_timeout=20.0)),
    ],
    ids=["side effects", "slow attempts are given up"],
)
def test_what_is_not_to_be_tried_gets_no_further_attempt(policy: TrafficPolicy) -> None:
    message = route_pb2.RouteConfiguration()
    catalog = Catalog((replace(CATALOG.services[0], policy=policy),))
    [resource] = build(catalog, EDGE).of(ROUTE).values()
    resource.body.Unpack(message)
    retries = {
        route.route.retry_policy.num_retries.value
        for host in message.virtual_hosts
        for route in host.routes
        if route.HasField("route")
    }
    assert retries == {policy.retry.num_retries}
