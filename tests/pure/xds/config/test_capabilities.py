"""Envoys of several versions on one control plane: none gets a field that it does not know."""

from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as manager_pb2,
)
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from xds.type.v3 import typed_struct_pb2

from sidecar.traffic.policy import DEFAULTS
from sidecar.xds.ads.ads_stream import AdsStream, DeltaStream, SotwStream
from sidecar.xds.ads.subscription import Reply
from sidecar.xds.config import clusters
from sidecar.xds.config.capabilities import Capabilities, capabilities_of
from sidecar.xds.config.snapshot import CLUSTER, ENDPOINT, LISTENER, ORDER, ROUTE, RUNTIME, Snapshot
from sidecar.xds.envoys.client_status import ResourceStatus, client
from sidecar.xds.envoys.envoy_streams import EnvoyStream
from tests.support.xds.ads_client import (
    FIRST,
    NAMES,
    SWAPPED,
    TUNED,
    Opened,
    acknowledge,
    delta,
    sotw,
)

# How Envoys describe themselves, without their extensions.
RECORDED: dict[str, dict[str, Any]] = {
    "1.36.2": {"majorNumber": 1, "minorNumber": 36, "patch": 2},
    "1.37.0": {"majorNumber": 1, "minorNumber": 37},
    "1.38.2": {"majorNumber": 1, "minorNumber": 38, "patch": 2},
    "1.39.3": {"majorNumber": 1, "minorNumber": 39, "patch": 3},
    "1.40.0": {"majorNumber": 1, "minorNumber": 40},
}
BUILD = {"build.type": "RELEASE", "revision.status": "Clean", "ssl.version": "BoringSSL"}
# Messages with fields that the published schema lacks, as an older Envoy sees them.
_OLD_SCHEMA = {
    each.DESCRIPTOR.full_name: each
    for each in (
        http_protocol_options_pb2.HttpProtocolOptions,
        manager_pb2.HttpConnectionManager,
    )
}


def node(version: dict[str, Any], agent: str = "envoy", **metadata: str) -> Any:
    build = {"version": version, "metadata": BUILD | metadata}
    node_info = {"id": "envoy-1", "user_agent_name": agent, "user_agent_build_version": build}
    return ParseDict(node_info, base_pb2.Node())


OLD, NEW = node(RECORDED["1.37.0"]), node(RECORDED["1.40.0"])


@pytest.mark.parametrize(
    ("node_info", "known"),
    [
        (node(RECORDED["1.36.2"]), Capabilities.PLAIN),
        (node(RECORDED["1.37.0"]), Capabilities.PLAIN),
        (node(RECORDED["1.38.2"]), Capabilities.PLAIN),
        (node(RECORDED["1.39.3"]), Capabilities.CODEC_LIMITS),
        (node(RECORDED["1.40.0"]), Capabilities.CODEC_LIMITS),
        (node({"majorNumber": 2}), Capabilities.CODEC_LIMITS),
        (node({"majorNumber": 1, "minorNumber": 39}, **{"build.label": "dev"}), Capabilities.PLAIN),
        (
            node({"majorNumber": 1, "minorNumber": 41}, **{"build.label": "dev"}),
            Capabilities.CODEC_LIMITS,
        ),
        (node({}), Capabilities.PLAIN),
        (node(RECORDED["1.40.0"], agent="gRPC C++"), Capabilities.PLAIN),
        (base_pb2.Node(id="envoy-1"), Capabilities.PLAIN),
        (base_pb2.Node(), Capabilities.PLAIN),
    ],
)
def test_the_version_of_an_envoy_is_read_from_its_node(node_info: Any, known: Capabilities) -> None:
    assert capabilities_of(node_info) is known


def open_as(ads: AdsStream, ask: Any, node_info: Any) -> Opened:
    """Subscribe to everything; only the first request has the node."""
    for place, type_url in enumerate(ORDER):
        request = ask(type_url, *NAMES.get(type_url, ()))
        if place == 0:
            request.node.CopyFrom(node_info)
        ads.receive(request)
    return ads, ask


@pytest.fixture(params=[(SotwStream, sotw), (DeltaStream, delta)])
def both(request: pytest.FixtureRequest) -> tuple[Opened, Opened]:
    """An old Envoy and a new one."""
    kind, ask = request.param
    return open_as(kind(), ask, OLD), open_as(kind(), ask, NEW)


def unknown(reply: Reply) -> list[str]:
    """What an Envoy that knows only the published schema says about the reply."""
    found = []
    for resource in reply.resources:
        for packed in _structs(resource.body):
            try:
                _parsed(packed)
            except ParseError as error:
                found.append(str(error))
    return found


def _parsed(packed: Any) -> None:
    known = _OLD_SCHEMA[packed.type_url.rpartition("/")[2]]
    ParseDict(MessageToDict(packed.value), known())


def _structs(body: Any) -> list[Any]:
    """The structs in a cluster or a listener."""
    kinds = {"Cluster": cluster_pb2.Cluster, "Listener": listener_pb2.Listener}
    kind = kinds.get(body.TypeName().rpartition(".")[2])
    if kind is None:
        return []
    message = kind.FromString(body.value)
    options = getattr(message, "typed_extension_protocol_options", {}).values()
    chains = getattr(message, "filter_chains", ())
    found = [*options, *(each.typed_config for chain in chains for each in chain.filters)]
    return [
        typed_struct_pb2.TypedStruct.FromString(each.value)
        for each in found
        if each.Is(typed_struct_pb2.TypedStruct.DESCRIPTOR)
    ]


def converse(opened: Opened, newest: Snapshot, *, old: bool) -> dict[str, list[str]]:
    """Answer all replies as an old or a new Envoy does; returns the rejections by type."""
    refused = {}
    for reply in opened[0].offers(newest):
        wrong = unknown(reply) if old else []
        acknowledge(opened, reply, error="; ".join(wrong) or None)
        refused[reply.type_url] = wrong
    return refused


def test_the_fake_old_envoy_rejects_what_a_new_one_gets(both: tuple[Opened, Opened]) -> None:
    refused = converse(both[1], FIRST, old=True)
    assert {type_url for type_url, wrong in refused.items() if wrong} == {CLUSTER, LISTENER}
    assert all("max_header_field_size_kb" in each for each in refused[CLUSTER])


def test_envoys_of_different_versions_follow_one_control_plane(
    both: tuple[Opened, Opened],
) -> None:
    for newest in (FIRST, SWAPPED, TUNED):
        for opened, old in zip(both, (True, False), strict=True):
            rejected = converse(opened, newest, old=old)
            assert not any(rejected.values())
            assert not opened[0].rejecting
            assert not opened[0].behind(newest)
            assert list(opened[0].offers(newest)) == []


def test_each_envoy_is_shown_with_what_it_was_sent(both: tuple[Opened, Opened]) -> None:
    shown = []
    for opened, old in zip(both, (True, False), strict=True):
        converse(opened, FIRST, old=old)
        found = client(EnvoyStream(opened[0]), FIRST, 0.0)
        assert {each.status for state in found.types for each in state.resources} == {
            ResourceStatus.SYNCED
        }
        shown.append({state.type_url: state.resources[0].resource.version for state in found.types})
    differ = {type_url for type_url in ORDER if shown[0][type_url] != shown[1][type_url]}
    assert differ == {CLUSTER, LISTENER}


def test_all_other_resources_are_the_same_for_all() -> None:
    new = FIRST.adapted_to(Capabilities.CODEC_LIMITS)
    assert new == FIRST
    assert FIRST.adapted_to(Capabilities.PLAIN) is FIRST
    for type_url in (RUNTIME, ENDPOINT, ROUTE):
        assert new.of(type_url) == FIRST.of(type_url)


def test_clusters_of_a_large_mesh_are_cached_for_all_capabilities(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def every() -> list[Any]:
        names = [f"kept-{number}" for number in range(300)]
        return [
            clusters.cluster(name, DEFAULTS, capabilities=capabilities)
            for capabilities in Capabilities
            for name in names
        ]

    before = every()
    monkeypatch.setattr(clusters, "parse", None)
    assert all(now is then for now, then in zip(every(), before, strict=True))
