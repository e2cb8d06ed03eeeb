"""Serialises responses; each resource only once, however many Envoys get it.

Protobuf allows concatenating serialised pieces: the elements of a repeated field one after the
other, and the rest as a separate message.
"""

from collections import OrderedDict
from collections.abc import Callable

from envoy.service.discovery.v3 import discovery_pb2

from sidecar.xds.ads.subscription import Reply
from sidecar.xds.config.snapshot import Resource

# Bytes of cached resources: more than the current ones of the largest mesh measured. What does not
# fit is serialised again.
_KEPT = 32 * 1024 * 1024
_Key = tuple[str, str, str, str]


class Encoder:
    """Serialises responses, and caches the most recently used resources."""

    def __init__(self, kept: int = _KEPT) -> None:
        """`kept` is the size of the cache in bytes."""
        # How many resources were serialised so far.
        self.made = 0
        self._room = kept
        self._pieces: OrderedDict[_Key, bytes] = OrderedDict()

    def sotw(self, reply: Reply) -> bytes:
        """An envoy.service.discovery.v3.DiscoveryResponse."""
        head = discovery_pb2.DiscoveryResponse(
            version_info=reply.version, type_url=reply.type_url, nonce=reply.nonce
        )
        return b"".join((head.SerializeToString(), *self._all("", reply, _sotw_piece)))

    def delta(self, reply: Reply) -> bytes:
        """An envoy.service.discovery.v3.DeltaDiscoveryResponse."""
        head = discovery_pb2.DeltaDiscoveryResponse(
            system_version_info=reply.version,
            type_url=reply.type_url,
            nonce=reply.nonce,
            removed_resources=reply.removed,
        )
        return b"".join((head.SerializeToString(), *self._all("delta", reply, _delta_piece)))

    def _all(self, kind: str, reply: Reply, make: Callable[[Resource], bytes]) -> list[bytes]:
        return [
            self._piece((kind, reply.type_url, found.name, found.version), found, make)
            for found in reply.resources
        ]

    def _piece(self, key: _Key, found: Resource, make: Callable[[Resource], bytes]) -> bytes:
        """The bytes of one resource; its version depends on its content alone."""
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


def _sotw_piece(found: Resource) -> bytes:
    return bytes(discovery_pb2.DiscoveryResponse(resources=[found.body]).SerializeToString())


def _delta_piece(found: Resource) -> bytes:
    resource = discovery_pb2.Resource(name=found.name, version=found.version, resource=found.body)
    return bytes(discovery_pb2.DeltaDiscoveryResponse(resources=[resource]).SerializeToString())
