"""Envoy's HTTP/2 settings, for clients and Tritons: what one request can do to others. Pure.

Many requests share a connection. Exceeding a codec limit ends all of them, exceeding one of Envoy's
own limits only the one request (decision 47). A full window stops all that share it (decision 48).
"""

from sidecar.xds.config.capabilities import Capabilities
from sidecar.xds.config.protojson import Table, seconds, typed, typed_struct

# KiB of one HPACK-encoded header or trailer, such as an error text that quotes the request. Beyond
# it the codec closes the connection. The maximum that Envoy allows.
MAX_HEADER_FIELD_SIZE_KB = 256
# KiB and number of all headers, beyond which Envoy resets the one request. Well above what Triton
# accepts (16 KiB), so that the server itself reports what is too large.
MAX_HEADERS_KB = 1024
MAX_HEADERS_COUNT = 4096
# Requests of one connection that its client may cancel at once, unless more can be in flight, and
# per second (decision 49). gRPC servers refuse others while more than 1000 wait for them.
STREAM_RESET_BURST, STREAM_RESET_RATE = 1000, 1000
# Bytes that a peer may send before they are forwarded: HTTP/2's minimum and maximum.
_LEAST_WINDOW, _MOST_WINDOW = 2**16 - 1, 2**31 - 1


def options(
    keepalive_interval: float, keepalive_timeout: float, read_ahead: int, capabilities: Capabilities
) -> Table:
    """Envoy's config.core.v3.Http2ProtocolOptions; seconds, and bytes per stream."""
    found: Table = {
        # Each stream stops on its own if its data is not consumed. With Envoy's defaults, 16 and 24
        # MiB, two of them stop the connection, and so all others.
        "initial_stream_window_size": min(max(read_ahead, _LEAST_WINDOW), _MOST_WINDOW),
        "initial_connection_window_size": _MOST_WINDOW,
        "connection_keepalive": {
            "interval": seconds(keepalive_interval),
            "timeout": seconds(keepalive_timeout),
        },
    }
    if capabilities is Capabilities.CODEC_LIMITS:
        found["max_header_field_size_kb"] = MAX_HEADER_FIELD_SIZE_KB
    return found


def reset_limits(max_concurrent_streams: int, capabilities: Capabilities) -> Table:
    """What clients may cancel before Envoy closes their connection: further options of a listener.

    Everything in flight on it at once, and then this many per second.
    """
    if capabilities is Capabilities.PLAIN:
        return {}
    burst = max(STREAM_RESET_BURST, max_concurrent_streams)
    return {"stream_reset_burst": burst, "stream_reset_rate": STREAM_RESET_RATE}


def typed_options(name: str, body: Table, capabilities: Capabilities) -> Table:
    """The configuration of an extension that contains `options`, by its message's name."""
    if capabilities is Capabilities.PLAIN:
        return typed(name, body)
    return typed_struct(name, body)
