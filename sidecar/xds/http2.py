"""HTTP/2 as Envoy speaks it, to clients and to Tritons alike: what one request can do to others.

Many requests share a connection. What is too much for Envoy's codec ends all of them, what is
too much for Envoy itself only the one (decision 47).
"""

from sidecar.xds.tables import Table, seconds

# KiB of one header or trailer as HPACK writes it, such as the text of an error, which may quote
# what the request said. Beyond it the codec ends the connection. The most that Envoy allows.
MAX_HEADER_FIELD_SIZE_KB = 256
# KiB of all of them together, and their number, beyond which Envoy resets the one request. Well
# above what Triton takes (16 KiB), so that the server says in its own words what is too large.
MAX_HEADERS_KB = 1024
MAX_HEADERS_COUNT = 4096


def options(keepalive_interval: float, keepalive_timeout: float) -> Table:
    """Envoy's config.core.v3.Http2ProtocolOptions; seconds."""
    return {
        "connection_keepalive": {
            "interval": seconds(keepalive_interval),
            "timeout": seconds(keepalive_timeout),
        },
        "max_header_field_size_kb": MAX_HEADER_FIELD_SIZE_KB,
    }
