"""What an Envoy can be told, by its version. Pure.

An Envoy refuses a cluster or a listener as a whole for one field that it does not know: the mesh
would be down for it. So it is told of no field that is newer than itself.
"""

from enum import Enum
from typing import Any

# Since when Envoy knows the limits of its codec that `http2.py` sets: of the size of a header
# since 1.38, of cancellations since 1.39.
_CODEC_LIMITS = (1, 39)


class Capabilities(Enum):
    """The fields that an Envoy knows. Those of `PLAIN` every Envoy from 1.36 on does."""

    PLAIN = "plain"
    CODEC_LIMITS = "codec limits"


def capabilities(node: Any) -> Capabilities:
    """Which one the Envoy knows that says this of itself (envoy.config.core.v3.Node).

    A client that names no version, or is no Envoy, gets the plain ones.
    """
    version = node.user_agent_build_version.version
    known = version.major_number, version.minor_number
    if node.user_agent_name != "envoy" or known < _CODEC_LIMITS:
        return Capabilities.PLAIN
    # On the way to a release some of its fields are not there yet.
    unfinished = "build.label" in node.user_agent_build_version.metadata.fields
    return (
        Capabilities.PLAIN if unfinished and known == _CODEC_LIMITS else Capabilities.CODEC_LIMITS
    )
