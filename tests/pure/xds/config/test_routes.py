"""Where requests are routed, by authority, path and headers."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from sidecar.traffic.policy import (
    DEFAULTS,
    Admission,
    Affinity,
    Limits,
    Match,
    Mode,
    Release,
    Retry,
    StatusCode,
    TrafficPolicy,
)
from sidecar.xds.config import clusters as resources
from sidecar.xds.config.methods import STREAM_PATH, TRITON
from sidecar.xds.config.protojson import parse
from sidecar.xds.config.routes import Routing, routes
from tests.support.traffic_policies import policies

INFER = TRITON + "ModelInfer"
INDEX = TRITON + "RepositoryIndex"
UNLOAD = TRITON + "RepositoryModelUnload"
_METHODS = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
HEALTH = "/grpc.health.v1.Health/Check"


def made(*routings: tuple[str, TrafficPolicy]) -> Any:
    return routes(tuple(Routing(*each) for each in routings))


def of(policy: TrafficPolicy) -> dict[str, Any]:
    """The routes of a single service, by their kinds."""
    [host, _] = made(("s", policy)).virtual_hosts
    return {route.name.removeprefix("s/"): route for route in host.routes}


def kind_of(path: str, virtual_host: Any, **headers: str) -> str:
    """Which route Envoy chooses: the first one that matches."""
    for route in virtual_host.routes:
        match = route.match
        fits = path == match.path if match.path else path.startswith(match.prefix)
        wanted = {each.name: each.string_match.exact for each in match.headers}
        if fits and wanted.items() <= {k.replace("_", "-"): v for k, v in headers.items()}.items():
            return str(route.name)
    raise AssertionError(f"no route for {path}")


def test_no_authority_is_claimed_twice() -> None:
    # A service's name is its own, whatever others claim; Envoy ignores case here.
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


def test_claims_come_before_the_first_services_default() -> None:
    match = Match(path_prefixes=("/vision.", "/"), headers=(("x-team", "vision"),))
    default = made(("one", DEFAULTS), ("two", replace(DEFAULTS, match=match))).virtual_hosts[-1]
    found = {
        path: (kind_of(path, default, x_team="vision"), kind_of(path, default))
        for path in ("/vision.Eye/See", STREAM_PATH, INFER, UNLOAD)
    }
    assert found == {
        "/vision.Eye/See": ("two/unary", "one/refused"),
        STREAM_PATH: ("two/stream", "one/stream"),
        INFER: ("two/unary", "one/unary"),
        UNLOAD: ("two/refused", "one/refused"),
    }


def test_a_service_without_a_claim_gets_only_requests_that_name_it() -> None:
    default = made(("one", DEFAULTS), ("two", DEFAULTS)).virtual_hosts[-1]
    assert {route.name for route in default.routes} == {"one/stream", "one/unary", "one/refused"}


def test_only_the_methods_that_every_client_needs_are_allowed() -> None:
    [host, default] = made(("s", DEFAULTS)).virtual_hosts
    methods = {method.name: f"{TRITON}{method.name}" for method in _METHODS}
    passing = {name for name, path in methods.items() if kind_of(path, host) != "s/refused"}
    assert passing == {
        *("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata"),
        *("ModelInfer", "ModelStreamInfer", "ModelConfig", "ModelStatistics"),
    }
    assert kind_of(HEALTH, host) == "s/unary"
    for path in ("/", "/x", "/a.b/C", f"{INFER}x", f"/x/..{UNLOAD}", TRITON, INFER.upper()):
        assert kind_of(path, host) == kind_of(path, default) == "s/refused"


@pytest.mark.parametrize(
    ("methods", "prefixes", "passing"),
    [
        ([INDEX], [], {INDEX: "management", UNLOAD: "refused", "/a.b/C": "refused"}),
        ([TRITON], [], {INDEX: "management", UNLOAD: "management", INFER: "unary"}),
        (["/a.b/C"], [], {"/a.b/C": "unary", "/a.b/Cd": "refused"}),
        (["/a.b/"], [], {"/a.b/C": "unary", "/a.bc/C": "refused"}),
        ([], ["/a.b/"], {"/a.b/C": "unary", UNLOAD: "refused"}),
        # These claim requests of Triton's own services; that does not allow all methods.
        ([], [TRITON], {INFER: "unary", STREAM_PATH: "stream", UNLOAD: "refused"}),
        ([], ["/inference."], {INFER: "unary", UNLOAD: "refused"}),
        ([], ["/"], {INFER: "unary", UNLOAD: "refused", "/a.b/C": "refused"}),
        ([], [UNLOAD], {UNLOAD: "management", INDEX: "refused", INFER: "unary"}),
        ([INDEX], [TRITON], {INDEX: "management", UNLOAD: "refused"}),
    ],
)
def test_a_policy_allows_more_methods(
    methods: list[str], prefixes: list[str], passing: dict[str, str]
) -> None:
    policy = replace(
        DEFAULTS,
        admission=Admission(tuple(methods)),
        match=Match(path_prefixes=tuple(prefixes), headers=(("x-team", "two"),)),
    )
    [first, own, default] = made(("one", DEFAULTS), ("two", policy)).virtual_hosts
    assert {path: kind_of(path, own) for path in passing} == {
        path: f"two/{kind}" for path, kind in passing.items()
    }
    # If they claim a request of another authority, they allow the same methods.
    for path, kind in passing.items():
        claimed = any(path.startswith(prefix) for prefix in prefixes or ["/"])
        wanted = f"two/{kind}" if claimed else kind_of(path, first)
        assert kind_of(path, default, x_team="two") == wanted


def test_a_refusal_says_how_to_allow_the_method() -> None:
    [host, _] = made(("s", DEFAULTS)).virtual_hosts
    refusal = host.routes[-1]
    assert (refusal.name, refusal.match.prefix) == ("s/refused", "/")
    assert refusal.direct_response.status == 403  # PERMISSION_DENIED in gRPC
    assert "admission.methods" in refusal.direct_response.body.inline_string


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
    for kind in ("unary", "stream"):
        route = of(replace(DEFAULTS, release=release))[kind]
        weighted = {each.name: each.weight.value for each in route.route.weighted_clusters.clusters}
        assert (weighted or {route.route.cluster: 0}) == clusters


def test_the_hash_headers_are_in_the_order_of_their_purpose() -> None:
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
    assert hashed.pop("refused") == []
    assert hashed == {
        "stream-sequence": ["x-sequence", "x-user", "x-session"],
        "stream": ["x-user", "x-session"],
        "unary-sequence": ["x-sequence", "x-user", "x-session"],
        "unary": ["x-user", "x-session"],
    }
    assert all(each.terminal for route in found.values() for each in route.route.hash_policy)
    # A sequence's state is in one instance: it is never retried.
    retried = {kind for kind, route in found.items() if route.route.HasField("retry_policy")}
    assert retried == {"stream", "unary"}


def retried(policy: TrafficPolicy, kind: str = "unary") -> tuple[str, set[int]]:
    """What makes Envoy retry a request: its own conditions, and gRPC codes."""
    found = of(policy)[kind].route.retry_policy
    assert {each.name for each in found.retriable_headers} <= {"grpc-status"}
    return found.retry_on, {int(each.string_match.exact) for each in found.retriable_headers}


SENT_AGAIN = "connect-failure,refused-stream,reset,retriable-headers"
NEVER_ARRIVED = "connect-failure,refused-stream,reset-before-request"


@pytest.mark.parametrize("mode", [Mode.ACTIVE_STANDBY, Mode.ACTIVE_ACTIVE, Mode.WEIGHTED])
def test_errors_that_may_be_the_servers_fault_are_retried_once(mode: Mode) -> None:
    policy = replace(DEFAULTS, mode=mode)
    # UNKNOWN, NOT_FOUND, INTERNAL, UNAVAILABLE.
    assert retried(policy) == retried(policy, "stream") == (SENT_AGAIN, {2, 5, 13, 14})
    assert of(policy)["unary"].route.retry_policy.num_retries.value == 1


def test_a_policy_may_set_other_codes() -> None:
    codes = (StatusCode.UNAVAILABLE, StatusCode.DATA_LOSS)
    assert retried(replace(DEFAULTS, retry=Retry(retryable_status_codes=codes)))[1] == {14, 15}


def test_an_answer_of_the_only_primary_is_not_retried() -> None:
    strict = replace(DEFAULTS, mode=Mode.STRICT)
    assert retried(strict) == ("connect-failure,refused-stream,reset", set())


def test_requests_with_side_effects_are_retried_only_if_they_reached_no_instance() -> None:
    policy = replace(
        DEFAULTS, retry=Retry(idempotent=False), limits=Limits(per_try_idle_timeout=9.0)
    )
    assert retried(policy) == retried(policy, "stream") == (NEVER_ARRIVED, set())
    # An attempt that timed out would be retried.
    assert not of(policy)["unary"].route.retry_policy.HasField("per_try_idle_timeout")


def test_requests_that_change_a_server_are_retried_only_if_they_reached_no_instance() -> None:
    admitting = replace(DEFAULTS, admission=Admission((UNLOAD, "/a.b/C")))
    assert retried(admitting, "management") == (NEVER_ARRIVED, set())
    assert retried(admitting)[0] == SENT_AGAIN


def test_without_retries_there_is_no_retry_policy() -> None:
    found = of(replace(DEFAULTS, retry=Retry(num_retries=0)))
    assert not any(route.route.HasField("retry_policy") for route in found.values())


def test_a_streams_duration_is_limited_whatever_its_client_sets() -> None:
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
        # A quarter of the memory is for requests that wait for a connection.
        (Limits(max_requests=10, retry_memory_bytes=2**31, retry_body_bytes=2**28), None, 6),
        (Limits(retry_memory_bytes=1, retry_body_bytes=2**28), None, 1),
    ],
)
def test_how_many_requests_are_allowed_at_once(
    limits: Limits, declared: int | None, expected: int
) -> None:
    assert resources.max_requests(replace(DEFAULTS, limits=limits), declared) == expected


def test_a_release_halves_the_memory_for_bodies() -> None:
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


def test_routes_of_an_unchanged_service_are_not_rebuilt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An instance becomes critical, and the snapshot that says so must not be delayed."""
    policy = replace(
        DEFAULTS, affinity=Affinity(sequence_header="x-s"), match=Match(headers=(("h", "v"),))
    )
    first, other = (Routing(name, policy) for name in ("kept-first", "kept-other"))
    routes((first, other))
    tables: list[str] = []

    def parsing(message: Any, body: Any) -> Any:
        tables.append(str(body))
        return parse(message, body)

    monkeypatch.setattr("sidecar.xds.config.routes.parse", parsing)
    ill = replace(other, ill=("10.0.0.1:8001",))
    message = routes((first, ill))
    assert any("kept-other/" in each for each in tables)
    assert not any("kept-first/" in each for each in tables)
    assert [host.name for host in message.virtual_hosts] == ["kept-first", "kept-other", "*"]
