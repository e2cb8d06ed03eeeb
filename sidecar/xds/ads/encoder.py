"""Replies as bytes. A resource is serialised once, however many Envoys are told of it.

Protobuf allows a message to be put together from serialised pieces: those of a repeated field one
after the other, and the rest as a message of its own.
"""

from collections import OrderedDict
from collections.abc import Callable

from envoy.service.discovery.v3 import discovery_pb2

from sidecar.xds.ads.subscription import Reply
from sidecar.xds.config.snapshot import Resource

# Bytes of resources that are kept. Above what is current in the largest mesh that was measured;
# what does not fit is serialised again.
_KEPT = 32 * 1024 * 1024
_Key = tuple[str, str, str, str]


class Encoder:
    """Serialises replies, and remembers the resources that it was given last."""

    def __init__(self, kept: int = _KEPT) -> None:
        """`kept` is how many bytes are remembered."""
        # How many resources were serialised.
        self.made = 0
        self._room = kept
        self._pieces: OrderedDict[_Key, bytes] = OrderedDict()

    def state_of_the_world(self, reply: Reply) -> bytes:
        """An envoy.service.discovery.v3.DiscoveryResponse."""
        head = discovery_pb2.DiscoveryResponse(
            version_info=reply.version, type_url=reply.type_url, nonce=reply.nonce
        )
        return b"".join((head.SerializeToString(), *self._all("", reply, _whole)))

    def delta(self, reply: Reply) -> bytes:
        """An envoy.service.discovery.v3.DeltaDiscoveryResponse."""
        head = discovery_pb2.DeltaDiscoveryResponse(
            system_version_info=reply.version,
            type_url=reply.type_url,
            nonce=reply.nonce,
            removed_resources=reply.removed,
        )
        return b"".join((head.SerializeToString(), *self._all("delta", reply, _single)))

    def _all(self, kind: str, reply: Reply, make: Callable[[Resource], bytes]) -> list[bytes]:
        return [
            self._piece((kind, reply.type_url, found.name, found.version), found, make)
            for found in reply.resources
        ]

    def _piece(self, key: _Key, found: Resource, make: Callable[[Resource], bytes]) -> bytes:
        """The bytes of one resource; its version is a matter of its content."""
        if key in self._pieces:
            self._pieces.move_to_end(key)
            return self._pieces[key]
        piece = self._pieces[key] = make(found)
        self.made += 1
        self._room -= len(piece)
        while self._room < 0:
            _, dropped = self._pieces.popitem(last=False)
            self._room += len(dropped)
        return piece


def _whole(found: Resource) -> bytes:
    return bytes(discovery_pb2.DiscoveryResponse(resources=[found.body]).SerializeToString())


def _single(found: Resource) -> bytes:
    resource = discovery_pb2.Resource(name=found.name, version=found.version, resource=found.body)
    return bytes(discovery_pb2.DeltaDiscoveryResponse(resources=[resource]).SerializeToString())
