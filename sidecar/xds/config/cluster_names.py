"""Cluster names: a cluster whose own settings change gets another name.

Envoy replaces a cluster whose settings change, and forgets what is in flight on the old one: load
reports omit it, and a drain would miss it. Under another name the old cluster stays, and is
reported on, until nothing is in flight there (lingering.py).
Why: docs/decisions/0056-cluster-names-carry-a-config-digest.md.
"""

import hashlib
from functools import lru_cache

from sidecar.traffic.policy import DEFAULTS, TrafficPolicy
from sidecar.xds.config import clusters

_DIGITS = 4  # bytes of the digest


@lru_cache(maxsize=512)
def generation(policy: TrafficPolicy, *, quarantine: bool) -> str:
    """The suffix of the names of a policy's clusters; empty with the default settings."""
    now, usual = (_settings(each, quarantine) for each in (policy, DEFAULTS))
    return "" if now == usual else f"~{hashlib.blake2b(now, digest_size=_DIGITS).hexdigest()}"


def _settings(policy: TrafficPolicy, quarantine: bool) -> bytes:
    message = clusters.cluster("", policy, quarantine=quarantine)
    return bytes(message.SerializeToString(deterministic=True))
