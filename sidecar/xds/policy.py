"""Every number that Envoy is given, with the reason for it."""

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class TrafficPolicy:
    """How Envoy treats requests and endpoints. Times in seconds, sizes in bytes.

    Field names follow Envoy's where it has a name for the thing.
    """

    # --- the listener -----------------------------------------------------------------------
    # Where gRPC clients connect to Envoy.
    listen_host: str = "0.0.0.0"
    listen_port: int = 8001
    # Requests at once per client connection; a gRPC client queues the rest. Envoy's own default,
    # named so that it does not change under us.
    max_concurrent_streams: int = 1024
    # A stream without a byte in either direction for this long is a leak. Generous: a request may
    # wait long for its first token, and nothing else bounds it where the client set no deadline.
    stream_idle_timeout: float = 3600.0
    # A client whose machine vanished is noticed after the sum of these; its streams would
    # otherwise be counted as in flight, and be waited for by a drain. Well above the pauses of a
    # busy client, and above the 10 s below which gRPC servers would call it too many pings.
    downstream_keepalive_interval: float = 30.0
    downstream_keepalive_timeout: float = 20.0

    # --- connections to Triton --------------------------------------------------------------
    # In a data centre a connection takes a millisecond or is not going to come; a retry waits for
    # this. Above one lost SYN (retransmitted after 1 s) there would be nothing to gain.
    connect_timeout: float = 0.5
    # A frozen machine or a pulled cable is noticed after at most the sum of these; the requests
    # stuck there are reset, and retried elsewhere. Shorter would take a busy server's pause for
    # its death and cut its streams. Triton has to allow such frequent pings.
    keepalive_interval: float = 0.5
    keepalive_timeout: float = 0.5
    # Read-ahead per connection and direction. It bounds what a slow peer can pile up in Envoy;
    # larger messages pass through in pieces.
    per_connection_buffer_limit: int = 1 * MIB

    # --- health checks of the sidecar -------------------------------------------------------
    # The backstop that works without Consul. A verdict of NOT_SERVING counts at once; a missing
    # answer only when repeated, for the sidecar may share an overloaded machine.
    health_interval: float = 0.25
    health_timeout: float = 1.0
    health_unhealthy_threshold: int = 2
    # The sidecar says SERVING only after its own row of successes: no need to count them again.
    health_healthy_threshold: int = 1
    # Percent. Many Envoys must not ask in step.
    health_jitter_percent: int = 10

    # --- outlier detection ------------------------------------------------------------------
    # Failures in a row (resets, refused connections, gRPC UNAVAILABLE in the response headers)
    # that take a host out before anyone else has noticed. A wrong request answers INTERNAL and
    # must not count, or one bad client could eject every host.
    consecutive_gateway_failure: int = 5
    outlier_interval: float = 0.5
    # Multiplied by the number of ejections so far, up to the maximum. Short, because by then the
    # health checks have had several turns to confirm it.
    base_ejection_time: float = 2.0
    max_ejection_time: float = 30.0
    # Percent of the service's hosts. Half: of two, one may go; a single host never does, since a
    # doubtful one is better than none. Hosts that are listed without getting requests count too:
    # beside one of those the last good host may go, for as long as an ejection lasts.
    max_ejection_percent: int = 50

    # --- retries ----------------------------------------------------------------------------
    # The other priority, and again when it is failing over at the same moment.
    num_retries: int = 3
    # First pause; doubles with each retry (at random within), and never exceeds the maximum.
    # Short, since a retry goes to another host.
    retry_base_interval: float = 0.005
    retry_max_interval: float = 0.1
    # Picks of a host that was tried already, before one is taken after all.
    host_selection_retry_max_attempts: int = 5
    # A request body up to this size is kept until the response begins, so that it can be sent
    # again: 64 MiB of tensors, their envelope, and room to spare. A larger one passes, but is not
    # retried. Bound on memory: this times the requests in flight whose response has not begun,
    # which `max_requests` limits.
    retry_body_limit: int = 72 * MIB

    # --- circuit breakers -------------------------------------------------------------------
    # Requests in flight to a service, and as many waiting for a connection. Triton queues and
    # refuses by itself; this only keeps a runaway client from exhausting Envoy.
    max_requests: int = 4096
    max_connections: int = 4096
    # Retries at once. When a host dies, all of its requests retry in the same instant and none of
    # them counts as in flight: a budget in percent alone would refuse them.
    retry_budget_percent: float = 100.0
    min_retry_concurrency: int = 4096
