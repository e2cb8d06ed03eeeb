"""The configuration with which Envoy continues a sequence on the instance where it began."""

from dataclasses import replace
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2,
)
from google.protobuf.message import Message

from sidecar.traffic.policy import DEFAULTS, Affinity, Match, Mode, TrafficPolicy
from sidecar.xds.catalog.catalog import Catalog, Health, Instance, Leader, ServiceCatalog
from sidecar.xds.catalog.policy_indexes import PolicyIndexes
from sidecar.xds.config.edge import Edge
from sidecar.xds.config.snapshot import CLUSTER, LISTENER, ROUTE, build

A = Instance("a", "10.0.0.1", 8001, 9001)
B = Instance("b", "fd00::2", 8001, 9001)
CRITICAL = replace(A, health=Health.CRITICAL, ill=True)
LUA = "envoy.filters.http.lua"
FOLLOWED = replace(DEFAULTS, affinity=Affinity(sequence_header="x-sequence"))


def resource(type_url: str, message: Message, policy: TrafficPolicy, *instances: Instance) -> Any:
    service = ServiceCatalog("s", instances, Leader("a", 1), policy=policy)
    [found] = build(Catalog((service,)), Edge()).of(type_url).values()
    found.body.Unpack(message)
    return message


def routes(policy: TrafficPolicy, *instances: Instance) -> dict[str, Any]:
    message = resource(ROUTE, route_pb2.RouteConfiguration(), policy, *instances)
    return {route.match.path: route for route in message.virtual_hosts[0].routes[::-1]}


def filters(policy: TrafficPolicy) -> dict[str, bool]:
    """The listener's filters, and whether each is disabled."""
    message = resource(LISTENER, listener_pb2.Listener(), policy, A)
    manager = http_connection_manager_pb2.HttpConnectionManager()
    message.filter_chains[0].filters[0].typed_config.Unpack(manager)
    return {each.name.rpartition(".")[2]: each.disabled for each in manager.http_filters}


def test_only_routes_of_inferences_in_sequence_are_followed() -> None:
    message = resource(ROUTE, route_pb2.RouteConfiguration(), FOLLOWED, A, B)
    followed = {
        (route.match.path.rpartition("/")[2], len(route.match.headers))
        for route in message.virtual_hosts[0].routes
        if LUA in route.typed_per_filter_config
    }
    assert followed == {("ModelInfer", 1), ("ModelStreamInfer", 1)}
    plain = resource(ROUTE, route_pb2.RouteConfiguration(), DEFAULTS, A, B)
    assert not any(route.typed_per_filter_config for route in plain.virtual_hosts[0].routes)


def test_no_policy_changes_the_listener() -> None:
    """Envoy drains a changed listener, and its connections with it."""
    assert filters(FOLLOWED) == filters(DEFAULTS)
    assert filters(DEFAULTS) == {
        "grpc_stats": False,
        "model_frames": True,
        "model_reader": True,
        "models": True,
        "buffer": True,
        "header_mutation": True,
        "lua": True,
        "router": False,
    }


def test_the_script_gets_the_service_of_each_route() -> None:
    """Two services may have a model of the same name, and one client sequences of both."""
    for route in routes(FOLLOWED, A).values():
        if LUA in route.typed_per_filter_config:
            assert route.metadata.filter_metadata[LUA]["service"] == "s"


def since(authority: str, *services: ServiceCatalog) -> str:
    """Which state of the policies the sequences of an authority belong to."""
    message = route_pb2.RouteConfiguration()
    [found] = build(Catalog(services), Edge()).of(ROUTE).values()
    found.body.Unpack(message)
    [host] = [each for each in message.virtual_hosts if authority in each.domains]
    [since_header] = {
        route.metadata.filter_metadata[LUA]["since"]
        for route in host.routes
        if LUA in route.typed_per_filter_config
    }
    return str(since_header)


def test_a_sequence_from_before_a_policy_followed_it_is_not_continued() -> None:
    service = ServiceCatalog("s", (A,), policy=FOLLOWED, since=PolicyIndexes(9, 5, 3))
    for authority in ("s", "*"):
        before = since(authority, service)
        assert since(authority, replace(service, since=PolicyIndexes(10, 5, 3))) == before
        assert since(authority, replace(service, since=PolicyIndexes(10, 10, 3))) != before


def test_a_sequence_that_another_service_may_have_claimed_is_not_continued() -> None:
    """Requests with a service's own name are its own, whatever others claim."""
    service = ServiceCatalog("s", (A,), policy=FOLLOWED, since=PolicyIndexes(9, 5, 3))
    named = replace(service, policy=replace(FOLLOWED, match=Match(authorities=("x",))))
    before, after = (
        ServiceCatalog("t", (B,), since=PolicyIndexes(each, 1, each)) for each in (7, 8)
    )
    assert since("s", service, before) == since("s", service, after)
    assert since("*", service, before) != since("*", service, after)
    assert since("x", named, before) != since("x", named, after)


@pytest.mark.parametrize("mode", Mode)
def test_sequences_continue_on_instances_without_new_requests_except_in_mode_strict(
    mode: Mode,
) -> None:
    policy = replace(FOLLOWED, mode=mode, weights=(("a", 1),) if mode is Mode.WEIGHTED else ())
    message = resource(CLUSTER, cluster_pb2.Cluster(), policy, A, B)
    statuses = message.common_lb_config.override_host_status.statuses
    assert len(statuses) == (0 if mode is Mode.STRICT else 6)
    plain = resource(CLUSTER, cluster_pb2.Cluster(), replace(policy, affinity=Affinity()), A, B)
    assert not plain.common_lb_config.HasField("override_host_status")


@pytest.mark.parametrize(
    ("instances", "expected"),
    [
        ((A, replace(B, health=Health.WARNING)), []),
        ((CRITICAL, B), ["10.0.0.1:8001"]),
        ((A, replace(B, health=Health.CRITICAL, ill=True)), ["[fd00::2]:8001"]),
        # Taking it out of service does not make it healthy.
        ((replace(CRITICAL, draining=True), B), ["10.0.0.1:8001"]),
        # It finishes its sequences, whoever takes it out of service; and an outdated entry does not
        # count.
        ((replace(A, draining=True), B), []),
        ((replace(A, health=Health.CRITICAL), B), []),
        ((A, replace(CRITICAL, id="old")), []),
    ],
)
def test_an_instance_that_may_answer_wrongly_continues_no_sequence(
    instances: tuple[Instance, ...], expected: list[str]
) -> None:
    route = routes(FOLLOWED, *instances)["/inference.GRPCInferenceService/ModelInfer"]
    assert LUA in route.typed_per_filter_config
    assert sorted(route.metadata.filter_metadata[LUA]["ill"]) == expected
