"""Every number of Envoy's own side, where clients connect, with the reason for it."""

from dataclasses import dataclass

from sidecar.traffic.policy import MIB


@dataclass(frozen=True, slots=True)
class Edge:
    """The listener and what belongs to no service. Times in seconds, sizes in bytes.

    Field names follow Envoy's where it has a name for the thing.
    """

    # Where gRPC clients connect to Envoy.
    listen_host: str = "0.0.0.0"
    listen_port: int = 8001
    # Requests at once per client connection; a gRPC client queues the rest. Envoy's own default,
    # named so that it does not change under us.
    max_concurrent_streams: int = 1024
    # Until a request has a route, whose policy then says.
    stream_idle_timeout: float = 60.0
    # A client whose machine vanished is noticed after the sum of these; its streams would
    # otherwise be counted as in flight, and be waited for by a drain. Well above the pauses of a
    # busy client, and above the 10 s below which gRPC servers would call it too many pings.
    keepalive_interval: float = 30.0
    keepalive_timeout: float = 20.0
    # Read-ahead per client connection and direction, and of each request. It bounds what a slow
    # client can pile up in Envoy; larger messages pass through in pieces.
    per_connection_buffer_limit_bytes: int = 1 * MIB
    # For how long a request that takes instances down is refused, 0 for never. Longer than clients
    # and their queues send it again; a mended Triton must not refuse it for ever.
    quarantine: float = 600.0
