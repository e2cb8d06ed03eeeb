"""The settings of Envoy's listener and everything outside services, each with its reason. Pure."""

from dataclasses import dataclass

from sidecar.traffic.policy import MIB


@dataclass(frozen=True, slots=True)
class Edge:
    """The listener's settings. Times in seconds, sizes in bytes.

    Field names follow Envoy's where it has a name for the setting.
    """

    # Where gRPC clients connect to Envoy.
    listen_host: str = "0.0.0.0"
    listen_port: int = 8001
    # Concurrent requests per client connection; a gRPC client queues the rest. Envoy's own default,
    # set explicitly so that it does not change under us.
    max_concurrent_streams: int = 1024
    # Applies until a request has a route, whose policy has its own.
    stream_idle_timeout: float = 60.0
    # A client whose machine vanished is noticed after the sum of these; otherwise its streams would
    # count as in flight and hold up drains. Well above the pauses of a busy client, and above the
    # 10 s below which gRPC servers would call it too many pings.
    keepalive_interval: float = 30.0
    keepalive_timeout: float = 20.0
    # Read-ahead per client connection and direction, and per request. It limits what a slow client
    # can pile up in Envoy; larger messages pass through in pieces.
    per_connection_buffer_limit_bytes: int = 1 * MIB
    # How long a request that crashes instances is refused, 0 for never. Longer than clients and
    # their queues retry it; but a fixed Triton must not refuse it forever.
    quarantine: float = 600.0
