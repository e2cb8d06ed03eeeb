"""HTTP/2 as Envoy speaks it, to clients and to Tritons alike: what one request can do to others.

Many requests share a connection. What is too much for Envoy's codec ends all of them, what is
too much for Envoy itself only the one (decision 47). A window that is full stops all that share
it (decision 48).
"""

from sidecar.xds.config.capabilities import Capabilities
from sidecar.xds.config.protojson import Table, seconds, typed, typed_anew

# KiB of one header or trailer as HPACK writes it, such as the text of an error, which may quote
# what the request said. Beyond it the codec ends the connection. The most that Envoy allows.
MAX_HEADER_FIELD_SIZE_KB = 256
# KiB of all of them together, and their number, beyond which Envoy resets the one request. Well
# above what Triton takes (16 KiB), so that the server says in its own words what is too large.
MAX_HEADERS_KB = 1024
MAX_HEADERS_COUNT = 4096
# Requests of one connection that its client may cancel at once, if no more can be in flight, and
# in each second (decision 49). Servers of gRPC refuse others while more than 1000 wait for them.
STREAM_RESET_BURST, STREAM_RESET_RATE = 1000, 1000
# Bytes that a peer may send before they are passed on: the least and the most of HTTP/2.
_LEAST_WINDOW, _MOST_WINDOW = 2**16 - 1, 2**31 - 1


def options(
    keepalive_interval: float, keepalive_timeout: float, read_ahead: int, dialect: Capabilities
) -> Table:
    """Envoy's config.core.v3.Http2ProtocolOptions; seconds, and bytes of each stream."""
    found: Table = {
        # Each stream stops by itself when nobody takes what it brings. By Envoy's defaults, 16 and
        # 24 MiB, two of them stop the connection, which means everybody.
        "initial_stream_window_size": min(max(read_ahead, _LEAST_WINDOW), _MOST_WINDOW),
        "initial_connection_window_size": _MOST_WINDOW,
        "connection_keepalive": {
            "interval": seconds(keepalive_interval),
            "timeout": seconds(keepalive_timeout),
        },
    }
    if dialect is Capabilities.CODEC_LIMITS:
        found["max_header_field_size_kb"] = MAX_HEADER_FIELD_SIZE_KB
    return found


def cancellations(max_concurrent_streams: int, dialect: Capabilities) -> Table:
    """What clients may cancel before Envoy ends their connection: more options, of a listener.

    All that is in flight on one, and then so many in each second.
    """
    if dialect is Capabilities.PLAIN:
        return {}
    burst = max(STREAM_RESET_BURST, max_concurrent_streams)
    return {"stream_reset_burst": burst, "stream_reset_rate": STREAM_RESET_RATE}


def holding(name: str, body: Table, dialect: Capabilities) -> Table:
    """The configuration of an extension that has `options` in it, by the name of its message."""
    if dialect is Capabilities.PLAIN:
        return typed(name, body)
    return typed_anew(name, body)
