"""Responses that are composed of serialised resources."""

from typing import Any

import pytest
from envoy.service.discovery.v3 import discovery_pb2

from sidecar.xds.ads.ads_stream import DeltaStream, SotwStream
from sidecar.xds.ads.encoder import Encoder
from sidecar.xds.ads.subscription import Reply
from tests.support.xds.ads_client import RELEASED, SWAPPED, delta, follow, sotw
from tests.support.xds.ads_client import opened as opened


def plain(reply: Reply, is_delta: bool) -> Any:
    """The reply as an ordinary message."""
    common = {"type_url": reply.type_url, "nonce": reply.nonce}
    if not is_delta:
        bodies = [found.body for found in reply.resources]
        return discovery_pb2.DiscoveryResponse(
            version_info=reply.version, resources=bodies, **common
        )
    return discovery_pb2.DeltaDiscoveryResponse(
        system_version_info=reply.version,
        removed_resources=reply.removed,
        resources=[
            discovery_pb2.Resource(name=found.name, version=found.version, resource=found.body)
            for found in reply.resources
        ],
        **common,
    )


@pytest.mark.parametrize("kept", [0, 1 << 20])
def test_a_reply_composed_of_pieces_equals_the_ordinary_message(kept: int) -> None:
    wire = Encoder(kept)
    for _ in range(3):  # three Envoys
        for reply in follow((SotwStream(), sotw), RELEASED).values():
            read = discovery_pb2.DiscoveryResponse.FromString(wire.sotw(reply))
            assert read == plain(reply, is_delta=False)
        opened = DeltaStream(), delta
        for reply in (*follow(opened, RELEASED).values(), *opened[0].offers(SWAPPED)):
            read = discovery_pb2.DeltaDiscoveryResponse.FromString(wire.delta(reply))
            assert read == plain(reply, is_delta=True)


def test_a_resource_is_serialised_once_for_all_envoys() -> None:
    wire = Encoder()
    for _ in range(100):
        for reply in follow((DeltaStream(), delta), RELEASED).values():
            wire.delta(reply)
    assert wire.made == sum(
        len(reply.resources) for reply in follow((DeltaStream(), delta), RELEASED).values()
    )
