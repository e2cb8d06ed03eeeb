"""The traffic policy of a service: every value that Envoy gets, with its reason. Pure."""

from dataclasses import dataclass
from enum import StrEnum

KIB = 1024
MIB = 1024 * KIB


class Mode(StrEnum):
    """Which instances get requests; see protos/sidecar/v1/traffic_policy.proto."""

    ACTIVE_STANDBY = "active-standby"
    ACTIVE_ACTIVE = "active-active"
    WEIGHTED = "weighted"
    STRICT = "strict"


class RoutingMode(StrEnum):
    """What decides, within a service, which instances may get a request."""

    BY_SERVICE = "by-service"
    BY_MODEL = "by-model"


class StatusCode(StrEnum):
    """gRPC's codes of failures that a different instance might not have.

    The others are the client's fault, or its deadline: they would be the same everywhere.
    """

    UNKNOWN = "UNKNOWN"
    NOT_FOUND = "NOT_FOUND"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    ABORTED = "ABORTED"
    INTERNAL = "INTERNAL"
    UNAVAILABLE = "UNAVAILABLE"
    DATA_LOSS = "DATA_LOSS"


@dataclass(frozen=True, slots=True)
class Guard:
    """When a release is rolled back automatically; seconds, percent.

    A limit that is None is not checked.
    """

    max_error_percent: float | None = None
    max_latency: float | None = None
    # Fewer prove nothing: one failed request among ten is 10 %.
    min_requests: int = 100
    window: float = 30.0


@dataclass(frozen=True, slots=True)
class Release:
    """A share of the requests, for the instances with one model set or one tag."""

    model_set: str = ""
    tag: str = ""
    percent: int = 0
    sticky_header: str = ""
    guard: Guard | None = None
    rolled_back: str = ""

    @property
    def share(self) -> int:
        """The percentage of requests that it gets now."""
        return 0 if self.rolled_back else self.percent


@dataclass(frozen=True, slots=True)
class Affinity:
    """The headers that tie requests to an instance; empty where there is none."""

    header: str = ""
    sequence_header: str = ""


@dataclass(frozen=True, slots=True)
class Locality:
    """Which zones and datacenters are preferred."""

    prefer_zone: bool = False
    datacenters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """How many requests pass, and for how long. Seconds, bytes; None where there is no limit."""

    # Requests in flight to a service at each Envoy, and as many pending for a connection. None:
    # what the instances declare, or `UNDECLARED`. Triton queues and refuses on its own; this keeps
    # a runaway client from exhausting Envoy, or a declared capacity from being exceeded.
    max_requests: int | None = None
    max_connections: int = 4096
    # Concurrent retries. When a host dies, all of its requests are retried in the same instant and
    # none counts as in flight: a budget in percent alone would refuse them.
    retry_budget_percent: float = 100.0
    min_retry_concurrency: int = 4096
    # A request body up to this size is buffered until the response begins, for a retry: 64 MiB of
    # tensors, their envelope, and room to spare. Larger requests pass, but are not retried.
    retry_body_bytes: int = 72 * MIB
    # The memory for these bodies at each Envoy. Envoy has no such limit itself; if this is set,
    # fewer requests pass, so that the limit holds even if each body has full size.
    retry_memory_bytes: int | None = None
    # None: a generation may take long until its first token, and only the client knows how long is
    # too long.
    per_try_idle_timeout: float | None = None
    # A Triton that has just loaded its models answers its first requests slowly. None: in
    # active-standby the primary gets all requests, and there is nothing to share.
    slow_start: float | None = None
    # A stream idle in both directions for this long is a leak. Generous: a request may wait long
    # for its first token, and nothing else bounds it if the client set no deadline.
    stream_idle_timeout: float = 3600.0
    # None: unlimited. If set, no stream outlives the withdrawal of its instance by more than this.
    max_stream_duration: float | None = None


UNDECLARED = 4096  # requests in flight, if neither the policy nor an instance sets a limit


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """Envoy's own checks of the sidecars: the backstop that works without Consul. Seconds.

    A verdict of NOT_SERVING counts at once.
    """

    interval: float = 0.25
    # The timeout of a check, and the timeouts in a row after which an instance is avoided. None:
    # never, because a Triton is not unhealthy when its sidecar is gone or starved, and Envoy does
    # not consider whether another instance is left; control planes do. But Envoy also sends the
    # timeout as a deadline, and gRPC answers for a sidecar that misses it, with a status that
    # counts at once. So it is long, but not too long for a starting Envoy, which waits for the
    # first answers; pings detect a lost connection sooner. In mode strict it is 1 s, and two
    # count: there the sidecar must confirm that its claim is valid.
    timeout: float | None = None
    unhealthy_threshold: int | None = None
    # The sidecar answers SERVING only after its own series of successes: no need to repeat it.
    healthy_threshold: int = 1
    # Many Envoys must not check a sidecar in step.
    interval_jitter_percent: int = 10
    # Percent. With fewer healthy instances, Envoy ignores health (panic mode). Never: an instance
    # that answers wrongly is worse than an error.
    healthy_panic_threshold: int = 0


@dataclass(frozen=True, slots=True)
class OutlierDetection:
    """When Envoy ejects an instance for its failures, before any check notices. Seconds."""

    # In a row: refused or lost connections, and resets. A response never counts, whatever its
    # status: a full queue, a version that is not loaded and a broken model are UNAVAILABLE or
    # INTERNAL too, and one client or model could eject a host that serves all others well.
    consecutive_local_origin_failure: int = 5
    interval: float = 0.5
    # Multiplied by the number of ejections so far, up to the maximum. Longer than the 3 s that a
    # sidecar takes to notice a frozen Triton: one that came back earlier would get requests again.
    base_ejection_time: float = 4.0
    max_ejection_time: float = 30.0
    # Percent of the eligible hosts. Half: of two, one may be ejected; a single one never is, since
    # a doubtful instance is better than none.
    max_ejection_percent: int = 50


@dataclass(frozen=True, slots=True)
class Retry:
    """When a request is retried. Seconds."""

    # One, so that a request that kills its server kills two at most.
    num_retries: int = 1
    # The first back-off, which doubles with each retry (with full jitter) up to the maximum. Short,
    # since a retry goes to a different host.
    base_interval: float = 0.005
    max_interval: float = 0.1
    # How often Envoy may pick a host that was tried already before it uses it anyway. Of two hosts
    # that share requests, a dead one has the fewest in flight and is picked three times out of
    # four; of two by weight, the heavier one is. Picks cost next to nothing.
    host_selection_retry_max_attempts: int = 1000
    # Statuses that may not be the request's fault. INTERNAL and UNKNOWN: a model failed, or its
    # process died. NOT_FOUND: the instance has lost a model. UNAVAILABLE: a full queue, or a
    # version that is not loaded.
    retryable_status_codes: tuple[StatusCode, ...] = (
        StatusCode.UNKNOWN,
        StatusCode.NOT_FOUND,
        StatusCode.INTERNAL,
        StatusCode.UNAVAILABLE,
    )
    # False: requests have side effects, and one that may have reached a server is not retried.
    idempotent: bool = True


@dataclass(frozen=True, slots=True)
class Connection:
    """Connections from Envoy to Triton. Seconds, bytes."""

    # Within a data centre, a connection takes a millisecond or never comes; a retry waits for this.
    # More would only help after a lost SYN, which is retransmitted after 1 s.
    connect_timeout: float = 0.5
    # A frozen machine or a pulled cable is detected after at most the sum of these; its requests
    # are reset, and retried elsewhere. With less, a busy server's pause would look like its death
    # and cut its streams. Triton must allow such frequent pings.
    keepalive_interval: float = 0.5
    keepalive_timeout: float = 0.5
    # The buffer per connection and direction, and of each response: what a slow client can pile up.
    # Larger messages pass through in pieces. The throughput of a response is limited to this
    # divided by the round trip: 1 GB/s at 1 ms.
    per_connection_buffer_limit_bytes: int = 1 * MIB


@dataclass(frozen=True, slots=True)
class Match:
    """Which requests are for the service, besides those with its name as `:authority`."""

    authorities: tuple[str, ...] = ()
    path_prefixes: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Admission:
    """Which methods pass, besides those that every client needs."""

    methods: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelRule:
    """Which models answer requests for a name: `to`, or the first usable one of `fallback`.

    An empty `to` is the name itself.
    """

    to: str = ""
    fallback: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TrafficPolicy:
    """A whole policy. A service without a document has the defaults.

    `weights` holds instance ids with their weights, sorted by id; for `Mode.WEIGHTED`. `models`
    holds rules by the name in a request, sorted; for `RoutingMode.BY_MODEL`.
    """

    mode: Mode = Mode.ACTIVE_STANDBY
    weights: tuple[tuple[str, int], ...] = ()
    release: Release | None = None
    affinity: Affinity = Affinity()
    locality: Locality = Locality()
    limits: Limits = Limits()
    health_check: HealthCheck = HealthCheck()
    outlier_detection: OutlierDetection = OutlierDetection()
    retry: Retry = Retry()
    connection: Connection = Connection()
    match: Match = Match()
    admission: Admission = Admission()
    # By service: all instances serve the same models, and Envoy does not look into requests.
    routing: RoutingMode = RoutingMode.BY_SERVICE
    models: tuple[tuple[str, ModelRule], ...] = ()

    @property
    def by_model(self) -> bool:
        """Whether a request goes only to instances that serve its model."""
        return self.routing is RoutingMode.BY_MODEL

    @property
    def times_out_attempts(self) -> bool:
        """Whether a slow attempt times out, so that it is retried."""
        again = self.retry.idempotent and self.retry.num_retries > 0
        return again and self.limits.per_try_idle_timeout is not None


DEFAULTS = TrafficPolicy()
