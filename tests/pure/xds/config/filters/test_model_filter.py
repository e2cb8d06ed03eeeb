"""The configuration with which Envoy sends a request to an instance that serves its model."""

from dataclasses import replace
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.route.v3 import route_pb2
from google.protobuf.message import Message

from sidecar.traffic.policy import (
    DEFAULTS,
    Affinity,
    Mode,
    ModelRule,
    RoutingMode,
    TrafficPolicy,
)
from sidecar.xds.catalog.catalog import Catalog, Health, Instance, Leader, ServiceCatalog
from sidecar.xds.config.clusters import max_ejection_percent
from sidecar.xds.config.edge import Edge
from sidecar.xds.config.endpoints import Assignment
from sidecar.xds.config.filters.model_filter import model_of
from sidecar.xds.config.lingering import FormerCluster
from sidecar.xds.config.snapshot import CLUSTER, ENDPOINT, ROUTE, Snapshot, build

BROKEN = (("chat", "CANARY_FAILED"),)
A = Instance("a", "10.0.0.1", 8001, 9001, models=("chat", "embed"), unusable=BROKEN)
B = Instance("b", "10.0.0.2", 8001, 9001, models=("chat",))
C = Instance("c", "10.0.0.3", 8001, 9001, Health.CRITICAL, models=("chat",))
BY_MODEL = replace(DEFAULTS, routing=RoutingMode.BY_MODEL)
FRAMES, READER, ROUTER = "model_frames", "model_reader", "models"
BUFFER = "envoy.filters.http.buffer"
NAMING = {"ModelInfer", "ModelStreamInfer", "ModelReady", "ModelMetadata", "ModelConfig"}


def snapshot(policy: TrafficPolicy, *instances: Instance, **kept: FormerCluster) -> Snapshot:
    service = ServiceCatalog("s", instances or (A, B, C), Leader("a", 1), policy=policy)
    return build(Catalog((service,)), Edge(), kept)


def resource(found: Snapshot, type_url: str, message: Message, name: str = "") -> Any:
    resources = found.of(type_url)
    resources[name or min(resources)].body.Unpack(message)
    return message


def routes(policy: TrafficPolicy, *instances: Instance) -> list[Any]:
    found = resource(snapshot(policy, *instances), ROUTE, route_pb2.RouteConfiguration())
    return list(found.virtual_hosts[0].routes)


def models(found: Snapshot, name: str = "") -> dict[str, list[str]]:
    """The models under which each endpoint is listed."""
    message = resource(found, ENDPOINT, endpoint_pb2.ClusterLoadAssignment(), name)
    return {
        each.endpoint.hostname: list(each.metadata.filter_metadata["envoy.lb"]["model"])
        if "envoy.lb" in each.metadata.filter_metadata
        else []
        for group in message.endpoints
        for each in group.lb_endpoints
    }


def test_without_it_no_request_is_read_and_no_endpoint_has_models() -> None:
    assert not any(models(snapshot(DEFAULTS)).values())
    assert not any(route.typed_per_filter_config for route in routes(DEFAULTS))
    cluster = resource(snapshot(DEFAULTS), CLUSTER, cluster_pb2.Cluster())
    assert not cluster.HasField("lb_subset_config")


def test_only_the_routes_of_methods_that_name_a_model_are_routed_by_it() -> None:
    found = {
        route.match.path.rpartition("/")[2]: set(route.typed_per_filter_config)
        for route in routes(BY_MODEL)
    }
    routed = {name for name, filters in found.items() if filters}
    assert routed == NAMING | {"ModelStatistics"}
    # Only a stream cannot be held back until it ends.
    assert found["ModelInfer"] == found["ModelReady"] == {BUFFER, ROUTER}
    assert found["ModelStreamInfer"] == {FRAMES, READER, ROUTER}


def test_aliases_are_replaced_on_every_such_route() -> None:
    rules = (("talk", ModelRule("chat")), ("tiny", ModelRule("tiny")))
    for route in routes(replace(BY_MODEL, models=rules)):
        if route.typed_per_filter_config:
            reading = READER if route.name == "s/stream" else BUFFER
            assert set(route.typed_per_filter_config) == {FRAMES, reading, ROUTER}
            metadata = route.metadata.filter_metadata
            assert dict(metadata[FRAMES]) == {"aliases": True, "model:talk": "chat"}
            assert metadata[ROUTER]["model:chat"] is True
            assert "tiny" in metadata[ROUTER]["model:tiny"]["why"]


def test_sequences_keep_what_they_need() -> None:
    policy = replace(BY_MODEL, mode=Mode.ACTIVE_ACTIVE, affinity=Affinity("", "x-sequence"))
    in_sequence = [route for route in routes(policy) if route.name == "s/unary-sequence"]
    infer = next(route for route in in_sequence if route.match.path.endswith("/ModelInfer"))
    lua = "envoy.filters.http.lua"
    assert {BUFFER, ROUTER, lua} <= set(infer.typed_per_filter_config)
    assert {each.header.key for each in infer.response_headers_to_add} == {
        "x-triton-sidecar-place",
        "x-triton-sidecar-model",
    }
    # One on an instance that may not serve its model does not continue.
    assert dict(infer.metadata.filter_metadata[lua]["ill"]) == {"10.0.0.1:8001 chat": True}


def test_endpoints_are_listed_under_the_models_that_they_may_serve() -> None:
    assert models(snapshot(BY_MODEL)) == {"a": ["embed"], "b": ["chat"], "c": ["chat"]}


def test_requests_wait_for_a_strict_primary_whatever_their_model() -> None:
    strict = replace(BY_MODEL, mode=Mode.STRICT)
    assert models(snapshot(strict))["nobody"] == ["chat", "embed"]
    assert models(snapshot(replace(DEFAULTS, mode=Mode.STRICT)))["nobody"] == []


def test_a_former_cluster_keeps_its_models_for_retries() -> None:
    name = next(iter(snapshot(BY_MODEL).of(CLUSTER)))
    assert name != "s"
    former = FormerCluster("s", "s", BY_MODEL)
    found = snapshot(DEFAULTS, **{name: former})
    assert models(found, name) == {"a": ["embed"], "b": ["chat"], "c": ["chat"]}
    assert not any(models(found, "s").values())


def test_the_model_of_a_request_is_the_last_one_as_for_triton() -> None:
    assert model_of(b"\x0a\x01a\x1a\x01i\x0a\x01b") == "b"
    assert model_of(b"") == ""
    assert model_of(b"\xff") == ""


@pytest.mark.parametrize(
    ("listed", "allowed"),
    [
        ((), 1),
        ((("a", ("x",)), ("b", ("x",)), ("c", ("x",))), 1),
        ((("a", ("x", "y")), ("b", ("x", "y")), ("c", ("x",))), 1),
        ((("a", ("x",)), ("b", ("x",)), ("c", ("y",))), 0),
    ],
)
def test_the_only_instance_with_a_model_cannot_be_ejected(
    listed: tuple[tuple[str, tuple[str, ...]], ...], allowed: int
) -> None:
    three = tuple(replace(B, id=name, address=f"10.0.0.{ord(name)}") for name in "abc")
    assignment = Assignment("s", (three,), models=listed)
    usual = BY_MODEL.outlier_detection.max_ejection_percent
    percent = max_ejection_percent([(assignment, BY_MODEL)])
    assert len(three) * (usual if percent is None else percent) // 100 == allowed
