"""The replies of CSDS."""

import pytest
from envoy.service.status.v3 import csds_pb2
from google.protobuf.json_format import ParseDict

from sidecar.xds.config.snapshot import CLUSTER
from sidecar.xds.envoys.client_status import Client, Nack, ResourceState, ResourceStatus, TypeState
from sidecar.xds.envoys.csds import response
from tests.support.xds.ads_client import FIRST

RESOURCE = FIRST.of(CLUSTER)["triton"]
REFUSAL = Nack("v", "bad cluster", 1_700_000_000.5)


def one(node: str, status: ResourceStatus = ResourceStatus.SYNCED) -> Client:
    state = ResourceState(RESOURCE, "", status)
    refusal = REFUSAL if status is ResourceStatus.ERROR else None
    return Client(node, "delta", 1.0, 0.0, (TypeState(CLUSTER, "", False, refusal, (state,)),))


def asked(*clients: Client, **request: object) -> list[csds_pb2.ClientConfig]:
    return list(response(clients, ParseDict(request, csds_pb2.ClientStatusRequest())).config)


@pytest.mark.parametrize("status", list(ResourceStatus))
def test_each_status_has_its_csds_name(status: ResourceStatus) -> None:
    [config] = asked(one("envoy-1", status))
    [found] = config.generic_xds_configs
    assert config.node.id == "envoy-1"
    assert (found.type_url, found.name) == (CLUSTER, "triton")
    assert (found.version_info, found.xds_config) == (RESOURCE.version, RESOURCE.body)
    assert csds_pb2.ConfigStatus.Name(found.config_status) == status.value
    assert found.HasField("error_state") is (status is ResourceStatus.ERROR)


def test_an_error_has_envoys_message() -> None:
    [config] = asked(one("envoy-1", ResourceStatus.ERROR))
    error = config.generic_xds_configs[0].error_state
    assert error.details == "bad cluster"
    assert error.last_update_attempt.ToMilliseconds() == 1_700_000_000_500


def test_contents_may_be_left_out() -> None:
    [config] = asked(one("envoy-1"), excludeResourceContents=True)
    assert not config.generic_xds_configs[0].HasField("xds_config")


@pytest.mark.parametrize(
    ("matcher", "nodes"),
    [
        ({"exact": "envoy-1"}, ["envoy-1"]),
        ({"prefix": "envoy"}, ["envoy-1", "envoy-2"]),
        ({"suffix": "-2"}, ["envoy-2"]),
        ({"contains": "VOY-2", "ignoreCase": True}, ["envoy-2"]),
        ({"exact": "other"}, []),
    ],
)
def test_envoys_are_chosen_by_id(matcher: dict[str, object], nodes: list[str]) -> None:
    found = asked(one("envoy-1"), one("envoy-2"), nodeMatchers=[{"nodeId": matcher}])
    assert [config.node.id for config in found] == nodes


@pytest.mark.parametrize(
    "matcher",
    [
        {"nodeId": {"safeRegex": {"regex": ".*"}}},
        {"nodeMetadatas": [{"path": [{"key": "x"}], "value": {"presentMatch": True}}]},
    ],
)
def test_a_matcher_for_unknown_metadata_is_an_error(matcher: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        asked(one("envoy-1"), nodeMatchers=[matcher])
