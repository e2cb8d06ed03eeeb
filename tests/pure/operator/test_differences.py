"""Where Envoys and control planes disagree."""

from typing import Any

from google.protobuf.json_format import ParseDict

from sidecar.operator.differences import Disagreement, disagreements, unconfirmed
from sidecar.v1 import control_plane_pb2

CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"


def published(version: str, *places: int | None) -> Any:
    endpoints = [
        {"instance": name, "weight": 1, **({} if priority is None else {"priority": priority})}
        for name, priority in zip("abc", places, strict=False)
    ]
    return ParseDict(
        {
            "resources": [{"typeUrl": CLUSTER, "name": "triton", "version": version}],
            "clusters": [{"name": "triton", "endpoints": endpoints}],
        },
        control_plane_pb2.GetSnapshotResponse(),
    )


def test_equal_snapshots_have_no_differences() -> None:
    assert list(disagreements({"one": published("v", 0, 1), "two": published("v", 0, 1)})) == []
    assert list(disagreements({"one": published("v", 0)})) == []


def test_versions_and_places_are_compared() -> None:
    found = list(disagreements({"one": published("v", 0, None), "two": published("w", 0, 1, 1)}))
    assert found == [
        Disagreement("Cluster triton", {"one": "v", "two": "w"}),
        Disagreement("b in triton", {"one": "gets no requests", "two": "priority 1, weight 1"}),
        Disagreement("c in triton", {"one": "not listed", "two": "priority 1, weight 1"}),
    ]


def test_a_resource_that_an_envoy_lacks_is_listed_with_its_error() -> None:
    behind = {"name": "triton", "publishedVersion": "w", "heldVersion": "v", "standing": "ERROR"}
    state = {"typeUrl": CLUSTER, "refusedVersion": "w", "refusedReason": "no", "behind": [behind]}
    response = ParseDict(
        {"clients": [{"node": "envoy-1", "lagSeconds": 3.0, "types": [state]}]},
        control_plane_pb2.ListClientsResponse(),
    )
    [found] = unconfirmed("one", response)
    assert (found.plane, found.node, found.type, found.name) == (
        "one",
        "envoy-1",
        "Cluster",
        "triton",
    )
    assert (found.published, found.held, found.standing) == ("w", "v", "ERROR")
    assert (found.lag, found.reason) == (3.0, "no")
