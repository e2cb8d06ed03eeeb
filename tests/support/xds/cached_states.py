"""A control plane's cached state, and its document."""

import json

from sidecar.traffic.guard import Rollback
from sidecar.traffic.policy import Guard, Release
from sidecar.xds.catalog import cached_state
from sidecar.xds.catalog.cached_state import CachedService, CachedState
from sidecar.xds.catalog.catalog import Health, Instance, Leader
from sidecar.xds.catalog.policy_indexes import PolicyIndexes
from sidecar.xds.catalog.retention import Leadership

A = Instance(
    "a", "10.0.0.1", 8001, 9001, Health.WARNING, weight=7, tags=("primary",), zone="z", capacity=4
)
B = Instance("dc2/b", "fe80::1", 8001, 9001, draining=True, model_set="files-1", datacenter="dc2")
KEPT = CachedService(
    (A, B),
    {"dc2/b": 1_700_000_000},
    Leadership(Leader("a", 7), 9),
    '{"mode": "strict"}',
    PolicyIndexes(9, 7, -5),
)
RELEASE = Release(tag="v2", percent=20, guard=Guard(max_latency=0.8))
ROLLBACKS = {"triton": Rollback(RELEASE, "9 % failed", answered=12)}
STATE = CachedState(("triton", "other"), {"triton": KEPT}, "east", ROLLBACKS)
SERVICES = ("other", "triton")
DOCUMENT = cached_state.dump(STATE, 1_700_000_000.0)


def resealed(body: bytes) -> bytes:
    """A document with a valid checksum."""
    header = {"format": 1, "blake2b": cached_state._checksum(body)}
    return json.dumps(header).encode() + b"\n" + body + b"\n"


def body(**changes: object) -> bytes:
    """The document's content with another instance."""
    tree = json.loads(DOCUMENT.splitlines()[1])
    tree["state"]["kept"]["triton"]["instances"][0] |= changes
    return json.dumps(tree).encode()
