"""Which fields an Envoy knows, by its version. Pure.

An Envoy rejects a whole cluster or listener because of one unknown field, which would take the mesh
down. So no Envoy gets a field that is newer than itself.
"""

from enum import Enum
from typing import Any

# The first Envoy version with the codec limits that `http2.py` sets: header size since 1.38,
# cancellations since 1.39.
_CODEC_LIMITS = (1, 39)


class Capabilities(Enum):
    """The fields that an Envoy knows. Those of `PLAIN` are in every Envoy since 1.36."""

    PLAIN = "plain"
    CODEC_LIMITS = "codec limits"


def capabilities_of(node: Any) -> Capabilities:
    """The capabilities of an Envoy from its own description (envoy.config.core.v3.Node).

    A client without a version, or other than Envoy, gets the plain ones.
    """
    version = node.user_agent_build_version.version
    known = version.major_number, version.minor_number
    if node.user_agent_name != "envoy" or known < _CODEC_LIMITS:
        return Capabilities.PLAIN
    # A development build may lack some fields of its release.
    unfinished = "build.label" in node.user_agent_build_version.metadata.fields
    return (
        Capabilities.PLAIN if unfinished and known == _CODEC_LIMITS else Capabilities.CODEC_LIMITS
    )
