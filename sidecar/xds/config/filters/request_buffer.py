"""The filter with which Envoy holds a request back until it is complete. Pure."""

# Imported for their types, which only `@type` names.
from envoy.extensions.filters.http.buffer.v3 import buffer_pb2 as _buffer  # noqa: F401

from sidecar.traffic.policy import MIB, TrafficPolicy
from sidecar.xds.config.protojson import Table, named, typed

_NAME = "envoy.filters.http.buffer"


def buffer_filter() -> Table:
    """The listener's filter, which is active only on the routes that enable it.

    Without it an HTTP/2 window would limit what a script can hold back.
    """
    body = typed("extensions.filters.http.buffer.v3.Buffer", {"max_request_bytes": MIB})
    return {**named(_NAME, body), "disabled": True}


def buffered(policy: TrafficPolicy) -> Table:
    """A route's `typed_per_filter_config` that enables it, up to what a retry may keep."""
    largest = {"max_request_bytes": policy.limits.retry_body_bytes}
    return {_NAME: typed("extensions.filters.http.buffer.v3.BufferPerRoute", {"buffer": largest})}
