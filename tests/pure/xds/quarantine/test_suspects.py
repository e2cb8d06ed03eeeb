"""Which requests are suspected of crashing instances, for how long, and what Envoys get."""

import ipaddress
from dataclasses import replace
from typing import Any

import pytest
from envoy.config.route.v3 import route_pb2
from google.protobuf.json_format import MessageToDict

from sidecar.traffic.policy import (
    DEFAULTS,
    Limits,
    Mode,
    Retry,
    RoutingMode,
    StatusCode,
    TrafficPolicy,
)
from sidecar.xds.catalog.catalog import Catalog, Health, Instance, Leader, ServiceCatalog
from sidecar.xds.config.edge import Edge
from sidecar.xds.config.filters.quarantine_filter import ANSWERED, Watchlist
from sidecar.xds.config.snapshot import CLUSTER, ORDER, ROUTE, build
from sidecar.xds.quarantine.quarantine import _held_request
from sidecar.xds.quarantine.suspects import MOST, Suspects, trial_places

A, B, C, D = (("10.0.0.1", 8001), ("10.0.0.2", 8001), ("10.0.0.3", 8001), ("10.0.0.4", 8001))
EDGE = Edge(quarantine=600.0)
CATALOG = Catalog(
    (
        ServiceCatalog(
            "triton",
            (Instance("a", *A, 9001), Instance("b", *B, 9001), Instance("c", *C, 9001)),
        ),
    )
)


def accused(*names: str, lifetime: float = 600.0) -> Suspects:
    """Requests to `triton` that crashed with two instances at second 0."""
    suspects = Suspects(lifetime)
    for name in names:
        suspects.accuse(f"triton/{name}", (A, B), CATALOG, 0.0)
    return suspects


def tried_on(suspects: Suspects, *services: ServiceCatalog) -> list[str]:
    """The instances on which the request `one` may be tried."""
    found = suspects.find("triton/one")
    assert found is not None
    return [instance.id for instance, _ in trial_places(found, Catalog(services))]


def service(*names: str, **changes: Any) -> ServiceCatalog:
    ports = {"a": A, "b": B, "c": C, "new": D}
    instances = tuple(Instance(name, *ports[name], 9001) for name in names)
    return ServiceCatalog("triton", instances, **changes)


def test_a_request_that_reached_no_instance_is_not_a_suspect() -> None:
    suspects = Suspects(600.0)
    assert suspects.accuse("triton/one", (), CATALOG, 0.0) is None
    assert not suspects.watchlist


def test_it_may_be_tried_where_it_crashed_first() -> None:
    suspects = accused("one")
    found = suspects.accuse("triton/one", (C,), CATALOG, 1.0)
    assert found is not None
    assert found.endpoints == {A, B}


def test_it_is_tried_where_it_crashed_and_on_new_instances_but_never_on_survivors() -> None:
    suspects = accused("one")
    assert tried_on(suspects, service("a", "b", "c")) == ["a", "b"]
    assert tried_on(suspects, service("c", "new")) == ["new"]
    assert tried_on(suspects, service("c")) == []
    other = replace(service("new"), name="other")
    assert tried_on(suspects, other, service("b", "c")) == ["b"]


def test_it_is_tried_only_where_its_model_is_served() -> None:
    """The NOT_FOUND of another instance would acquit it."""
    found = accused("one").find("triton/one")
    assert found is not None
    ill = (("chat", "MODEL_NOT_READY"),)
    instances = (
        Instance("a", *A, 9001, models=("chat", "embed"), unusable=ill),
        Instance("b", *B, 9001, models=("chat",)),
        Instance("new", *D, 9001, models=("embed",)),
    )
    policy = TrafficPolicy(mode=Mode.ACTIVE_ACTIVE, routing=RoutingMode.BY_MODEL)
    catalog = Catalog((ServiceCatalog("triton", instances, policy=policy),))
    places = {
        model: [instance.id for instance, _ in trial_places(found, catalog, model)]
        for model in ("chat", "embed")
    }
    assert places == {"chat": ["b"], "embed": ["a", "new"]}


def test_it_is_not_tried_on_an_instance_that_gets_no_requests() -> None:
    suspects = accused("one")
    [down, back, _] = service("a", "b", "c").instances
    down = replace(down, health=Health.CRITICAL)
    assert tried_on(suspects, ServiceCatalog("triton", (down, back))) == ["b"]
    strict = replace(DEFAULTS, mode=Mode.STRICT)
    for leader, places_ in (("b", ["b"]), ("c", [])):
        led = Leader(leader, 2)
        found = tried_on(suspects, service("a", "b", "c", leader=led, policy=strict))
        assert found == places_


@pytest.mark.parametrize(
    "state",
    [
        {"silent": True},
        {"health": Health.CRITICAL, "draining": True, "hands_over": True},
    ],
    ids=["silent", "hands over"],
)
def test_if_no_other_is_left_it_is_tried_on_the_last_resort(
    state: dict[str, Any],
) -> None:
    suspects = accused("one")
    [left, back] = service("a", "b").instances
    left = replace(left, **state)
    down = replace(back, health=Health.CRITICAL)
    assert tried_on(suspects, ServiceCatalog("triton", (left, down))) == ["a"]
    assert tried_on(suspects, ServiceCatalog("triton", (left, back))) == ["b"]
    strict, leader = replace(DEFAULTS, mode=Mode.STRICT), Leader("b", 2)
    assert tried_on(suspects, ServiceCatalog("triton", (left, down), leader, policy=strict)) == []


def test_two_crashes_in_trials_prove_it_and_restart_its_lifetime() -> None:
    suspects = accused("answered", "guilty", "unlucky", "open")
    suspects.acquit("triton/answered")
    suspects.crashed_in_trial("triton/guilty", A, 100.0)
    suspects.crashed_in_trial("triton/guilty", A, 200.0)
    suspects.crashed_in_trial("triton/unlucky", B, 100.0)
    suspects.crashed_in_trial("triton/unheard of", B, 100.0)
    suspects.refuse("triton/guilty", "because")
    found = {name: suspects.find(name) for name, _ in suspects.watchlist}
    assert {name for name, each in found.items() if each and each.guilty} == {"triton/guilty"}
    suspects.forget(600.0)
    assert suspects.watchlist == {("triton/guilty", "because"), ("triton/unlucky", "")}
    suspects.forget(700.0)
    assert suspects.watchlist == {("triton/guilty", "because")}
    suspects.forget(800.0)
    assert not suspects.watchlist


def test_a_suspect_is_pardoned_once() -> None:
    suspects = accused("one")
    suspects.pardon("triton/one", 1.0)
    assert not suspects.watchlist
    again = suspects.accuse("triton/one", (A, B), CATALOG, 2.0)
    assert again is not None
    assert again.pardoned
    suspects.acquit("triton/one")
    once_more = suspects.accuse("triton/one", (A, B), CATALOG, 3.0)
    assert once_more is not None
    assert not once_more.pardoned


def test_of_an_unknown_service_nothing_can_be_found_out() -> None:
    for catalog in (None, Catalog(())):
        with pytest.raises(LookupError):
            Suspects(600.0).accuse("triton/one", (A, B), catalog, 0.0)


def test_headers_that_cannot_be_forwarded_are_left_out_of_a_trial() -> None:
    headers = {
        "x-quarantine-print": "triton/ab",
        "x-quarantine-hosts": "10.0.0.1:8001,[::ffff:1.2.3.4]:80",
        "user": "J\u00fcrgen",
        "tenant": "a",
        "grpc-timeout": "1S",
    }
    found = _held_request(headers, b"")
    assert found.metadata == (("tenant", "a"),)
    assert found.endpoints == (A, (str(ipaddress.ip_address("::ffff:1.2.3.4")), 80))


def test_no_suspect_is_dropped_for_others() -> None:
    suspects = accused(*map(str, range(MOST)))
    with pytest.raises(OverflowError):
        suspects.accuse("triton/one more", (A, B), CATALOG, 0.0)
    assert len(suspects.watchlist) == MOST


def routes_of(
    policy: TrafficPolicy, edge: Edge = EDGE, suspects: Watchlist = frozenset()
) -> list[Any]:
    """The routes to a cluster, by name and by default."""
    message = route_pb2.RouteConfiguration()
    catalog = Catalog((replace(CATALOG.services[0], policy=policy),))
    [resource] = build(catalog, edge, {}, suspects).of(ROUTE).values()
    resource.body.Unpack(message)
    return [
        route for host in message.virtual_hosts for route in host.routes if route.HasField("route")
    ]


def test_routes_name_the_suspects_of_their_service_where_they_may_be_tried() -> None:
    suspects = {"triton/ab": "", "triton/cd": "refused"}
    wanted = frozenset({*suspects.items(), ("other/ef", "refused")})
    for route in routes_of(DEFAULTS, EDGE, wanted):
        metadata = MessageToDict(route.metadata).get("filterMetadata", {})
        script = metadata.get("envoy.filters.http.lua")
        if route.route.retry_policy.num_retries.value > DEFAULTS.retry.num_retries:
            assert script == {"service": "triton", "suspects": suspects}
        else:
            assert script is None


def test_an_answered_request_gets_no_more_attempts_than_the_policy_allows() -> None:
    codes = (StatusCode.INTERNAL, StatusCode.UNKNOWN)
    policy = replace(DEFAULTS, retry=Retry(num_retries=2, retryable_status_codes=codes))
    for route in routes_of(policy):
        retry = route.route.retry_policy
        if retry.num_retries.value <= 2:
            continue  # no request with side effects is retried here
        wanted = {header.string_match.exact for header in retry.retriable_headers}
        assert wanted == {"13/", "13/1", "13/2", "2/", "2/1", "2/2"}
        assert {header.name for header in retry.retriable_headers} == {ANSWERED}


def test_nothing_but_routes_changes_with_the_suspects() -> None:
    before, after = build(CATALOG, EDGE), build(CATALOG, EDGE, {}, frozenset({("triton/ab", "")}))
    # A change of a cluster or a listener would cut requests or lose their state.
    assert [url for url in ORDER if before.of(url) != after.of(url)] == [ROUTE]


def test_if_disabled_there_is_no_filter_and_no_further_attempt() -> None:
    for edge, there in ((EDGE, True), (Edge(quarantine=0.0), False)):
        snapshot = build(CATALOG, edge)
        [cluster] = snapshot.of(CLUSTER).values()
        assert (b"envoy.filters.http.lua" in cluster.body.value) is there
        retries = {
            route.route.retry_policy.num_retries.value for route in routes_of(DEFAULTS, edge)
        }
        assert (max(retries) > DEFAULTS.retry.num_retries) is there


@pytest.mark.parametrize(
    "policy",
    [
        replace(DEFAULTS, retry=Retry(idempotent=False)),
        replace(DEFAULTS, limits=Limits(per_try_idle_timeout=20.0)),
    ],
    ids=["side effects", "slow attempts time out"],
)
def test_requests_that_must_not_be_retried_get_no_further_attempt(policy: TrafficPolicy) -> None:
    retries = {route.route.retry_policy.num_retries.value for route in routes_of(policy)}
    assert retries == {policy.retry.num_retries}
    assert not any(route.metadata.filter_metadata for route in routes_of(policy))
