"""What a cluster is called: one whose own settings change is another one, by another name.

Envoy makes a new cluster of one that changes, and forgets what is in flight on the old one: no load
report names it any more, and a drain would not see it. With a name of its own the old one stays,
and is reported on, until nothing is in flight there (lingering.py).
Why so: docs/decisions/0056-cluster-names-carry-a-config-digest.md.
"""

import hashlib
from functools import lru_cache

from sidecar.traffic.policy import DEFAULTS, TrafficPolicy
from sidecar.xds.config import clusters

_DIGITS = 4  # bytes of the digest


@lru_cache(maxsize=512)
def generation(policy: TrafficPolicy, *, quarantine: bool) -> str:
    """What is appended to the names of a policy's clusters; nothing with the default settings."""
    now, usual = (_settings(each, quarantine) for each in (policy, DEFAULTS))
    return "" if now == usual else f"~{hashlib.blake2b(now, digest_size=_DIGITS).hexdigest()}"


def _settings(policy: TrafficPolicy, quarantine: bool) -> bytes:
    message = clusters.cluster("", policy, quarantine=quarantine)
    return bytes(message.SerializeToString(deterministic=True))
