"""Where requests go, by authority, path and headers."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.traffic.policy import (
    DEFAULTS,
    Affinity,
    Limits,
    Match,
    Mode,
    Release,
    Retry,
    TrafficPolicy,
)
from sidecar.xds import resources
from sidecar.xds.routes import STREAM_PATH, Routing, routes
from tests.traffic_policies import policies


def made(*routings: tuple[str, TrafficPolicy]) -> Any:
    return routes(tuple(Routing(*each) for each in routings))


def of(policy: TrafficPolicy) -> dict[str, Any]:
    """The routes of a lone service, by their kinds."""
    [host, _] = made(("s", policy)).virtual_hosts
    return {route.name.removeprefix("s/"): route for route in host.routes}


def test_no_authority_is_claimed_twice() -> None:
    # The name of a service is its own, whatever others claim; Envoy knows no upper case here.
    message = made(
        ("one", replace(DEFAULTS, match=Match(authorities=("two", "Shared")))),
        ("two", replace(DEFAULTS, match=Match(authorities=("shared", "own")))),
        ("Two", DEFAULTS),
    )
    assert {host.name: list(host.domains) for host in message.virtual_hosts} == {
        "one": ["one", "one:*", "shared", "shared:*"],
        "two": ["two", "two:*", "own", "own:*"],
        "*": ["*"],
    }


def test_claims_come_before_the_first_services_rest() -> None:
    match = Match(path_prefixes=("/vision.", "/"), headers=(("x-team", "vision"),))
    default = made(("one", DEFAULTS), ("two", replace(DEFAULTS, match=match))).virtual_hosts[-1]
    found = [
        (route.name, route.match.prefix or route.match.path, len(route.match.headers))
        for route in default.routes
    ]
    assert found == [
        ("two/unary", "/vision.", 1),
        ("two/stream", STREAM_PATH, 1),
        ("two/unary", "/", 1),
        ("one/stream", STREAM_PATH, 0),
        ("one/unary", "/", 0),
    ]


def test_a_service_without_a_claim_gets_only_what_names_it() -> None:
    default = made(("one", DEFAULTS), ("two", DEFAULTS)).virtual_hosts[-1]
    assert {route.name for route in default.routes} == {"one/stream", "one/unary"}


@pytest.mark.parametrize(
    ("release", "clusters"),
    [
        (None, {"s": 0}),
        (Release(tag="v2", percent=0), {"s": 0}),
        (Release(tag="v2", percent=30), {"s": 70, "s~release": 30}),
        (Release(tag="v2", percent=100), {"s~release": 0}),
        (Release(tag="v2", percent=30, rolled_back="x"), {"s": 0}),
    ],
)
def test_a_release_gets_its_share(release: Release | None, clusters: dict[str, int]) -> None:
    for route in of(replace(DEFAULTS, release=release)).values():
        weighted = {each.name: each.weight.value for each in route.route.weighted_clusters.clusters}
        assert (weighted or {route.route.cluster: 0}) == clusters


def test_headers_decide_in_the_order_of_what_they_are_for() -> None:
    policy = replace(
        DEFAULTS,
        mode=Mode.ACTIVE_ACTIVE,
        affinity=Affinity("x-session", "x-sequence"),
        release=Release(tag="v2", percent=30, sticky_header="x-user"),
    )
    found = of(policy)
    hashed = {
        kind: [each.header.header_name for each in route.route.hash_policy]
        for kind, route in found.items()
    }
    assert hashed == {
        "stream-sequence": ["x-sequence", "x-user", "x-session"],
        "stream": ["x-user", "x-session"],
        "unary-sequence": ["x-sequence", "x-user", "x-session"],
        "unary": ["x-user", "x-session"],
    }
    assert all(each.terminal for route in found.values() for each in route.route.hash_policy)
    # A sequence's state is in one instance: it is never sent again.
    retried = {kind for kind, route in found.items() if route.route.HasField("retry_policy")}
    assert retried == {"stream", "unary"}


def test_no_retries_is_no_policy_of_retries() -> None:
    found = of(replace(DEFAULTS, retry=Retry(num_retries=0)))
    assert not any(route.route.HasField("retry_policy") for route in found.values())


def test_a_stream_is_bounded_whatever_its_client_says() -> None:
    found = of(replace(DEFAULTS, limits=Limits(max_stream_duration=9.0)))
    stream, unary = (found[kind].route.max_stream_duration for kind in ("stream", "unary"))
    assert stream.max_stream_duration.ToSeconds() == 9
    assert stream.grpc_timeout_header_max.ToSeconds() == 9
    assert not unary.HasField("max_stream_duration")
    assert unary.grpc_timeout_header_max.ToSeconds() == 0


@pytest.mark.parametrize(
    ("limits", "declared", "expected"),
    [
        (Limits(), None, 4096),
        (Limits(), 64, 64),
        (Limits(max_requests=10), 64, 10),
        # A quarter of what there is room for may be waiting for a connection.
        (Limits(max_requests=10, retry_memory_bytes=2**31, retry_body_bytes=2**28), None, 6),
        (Limits(retry_memory_bytes=1, retry_body_bytes=2**28), None, 1),
    ],
)
def test_how_many_are_let_through(limits: Limits, declared: int | None, expected: int) -> None:
    assert resources.max_requests(replace(DEFAULTS, limits=limits), declared) == expected


def test_a_release_halves_the_room_for_bodies() -> None:
    limits = Limits(retry_memory_bytes=2**31, retry_body_bytes=2**28)
    policy = replace(DEFAULTS, limits=limits, release=Release(tag="v2", percent=5))
    assert (resources.max_requests(policy, None), resources.max_pending(policy)) == (3, 1)
    boundless = replace(DEFAULTS, limits=Limits(retry_memory_bytes=2**53, retry_body_bytes=1))
    assert resources.max_pending(boundless) == 4096


@given(st.lists(st.tuples(st.sampled_from(["a", "B", "b", "c"]), policies()), max_size=4))
def test_envoy_finds_each_domain_once_and_a_cluster_for_each_route(
    drawn: list[tuple[str, TrafficPolicy]],
) -> None:
    routings = tuple(Routing(*each) for each in dict(drawn).items())
    message = routes(routings)
    domains = [domain for host in message.virtual_hosts for domain in host.domains]
    assert len(domains) == len({domain.lower() for domain in domains})
    assert all(host.domains and host.routes for host in message.virtual_hosts)
    clusters = {name for each in routings for name in each.clusters}
    for host in message.virtual_hosts:
        for route in host.routes:
            split = route.route.weighted_clusters.clusters
            assert {route.route.cluster, *(each.name for each in split)} - {""} <= clusters
            assert not split or sum(each.weight.value for each in split) == 100
