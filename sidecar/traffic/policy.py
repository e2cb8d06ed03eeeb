"""The traffic policy of a service: every number that Envoy is given about it, with the reason."""

from dataclasses import dataclass
from enum import StrEnum

KIB = 1024
MIB = 1024 * KIB


class Mode(StrEnum):
    """Who gets requests. Names and meanings are those of protos/sidecar/v1/traffic_policy.proto."""

    ACTIVE_STANDBY = "active-standby"
    ACTIVE_ACTIVE = "active-active"
    WEIGHTED = "weighted"
    STRICT = "strict"


class StatusCode(StrEnum):
    """What gRPC calls the failures that another instance might not have had.

    What is left out is the client's own, or its deadline: it would be the same everywhere.
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
    """When a release is rolled back by itself; seconds, percent.

    A limit that is None is not looked at.
    """

    max_error_percent: float | None = None
    max_latency: float | None = None
    # So few say nothing: one failed request among ten is 10 %.
    min_requests: int = 100
    window: float = 30.0


@dataclass(frozen=True, slots=True)
class Release:
    """A share of the requests for the instances of one model set, or with one tag."""

    model_set: str = ""
    tag: str = ""
    percent: int = 0
    sticky_header: str = ""
    guard: Guard | None = None
    rolled_back: str = ""

    @property
    def share(self) -> int:
        """Percent of the requests that go there now."""
        return 0 if self.rolled_back else self.percent


@dataclass(frozen=True, slots=True)
class Affinity:
    """The headers by which requests belong together; empty where there is none."""

    header: str = ""
    sequence_header: str = ""


@dataclass(frozen=True, slots=True)
class Locality:
    """What comes before what."""

    prefer_zone: bool = False
    datacenters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is let through, and for how long. Seconds, bytes; None where there is no limit."""

    # Requests in flight to a service at each Envoy, and as many waiting for a connection. None:
    # what the instances declare, or `UNDECLARED`. Triton queues and refuses by itself; this keeps
    # a runaway client from exhausting Envoy, or a declared capacity from being exceeded.
    max_requests: int | None = None
    max_connections: int = 4096
    # Retries at once. When a host dies, all of its requests retry in the same instant and none of
    # them counts as in flight: a budget in percent alone would refuse them.
    retry_budget_percent: float = 100.0
    min_retry_concurrency: int = 4096
    # A request body up to this size is kept until the response begins, so that it can be sent
    # again: 64 MiB of tensors, their envelope, and room to spare. A larger one passes, but is not
    # retried.
    retry_body_bytes: int = 72 * MIB
    # What these bodies may take together at each Envoy. Envoy has no such limit by itself; where
    # it is set, fewer requests are let through, so that it holds if each body is of full size.
    retry_memory_bytes: int | None = None
    # None: a generation may take long until its first token, and nobody but the client knows how
    # long is too long.
    per_try_idle_timeout: float | None = None
    # A Triton that has just loaded its models answers its first requests slower. None: in
    # active-standby the primary is alone, and there is nothing to share.
    slow_start: float | None = None
    # A stream without a byte in either direction for this long is a leak. Generous: a request may
    # wait long for its first token, and nothing else bounds it where the client set no deadline.
    stream_idle_timeout: float = 3600.0
    # None: as long as the client likes. Where it is set, no stream outlives the withdrawal of its
    # instance by more than this.
    max_stream_duration: float | None = None


UNDECLARED = 4096  # requests in flight, where neither the policy nor an instance says


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """Envoy's own checks of the sidecars: the backstop that works without Consul. Seconds.

    A verdict of NOT_SERVING counts at once.
    """

    interval: float = 0.25
    # How long an answer is waited for, and missing ones in a row after which an instance is
    # avoided. None: it never is, for a Triton is not ill because its sidecar is gone or has no
    # turn, and Envoy would not ask whether anybody else is left; control planes do. Envoy sends
    # the timeout along as a deadline, though, and gRPC answers for a sidecar that lets it pass,
    # with a status that counts at once. So it is long, if not too long for an Envoy that starts,
    # which waits for the first answers; pings tell sooner that a connection is lost. In mode
    # strict it is 1 s, and two count: the sidecar has to say that its claim is good.
    timeout: float | None = None
    unhealthy_threshold: int | None = None
    # The sidecar says SERVING only after its own row of successes: no need to count them again.
    healthy_threshold: int = 1
    # Many Envoys must not check a sidecar in step.
    interval_jitter_percent: int = 10
    # Percent. When fewer of the instances are healthy, Envoy gives up telling them apart. Never: an
    # instance that answers wrongly is worse than an error.
    healthy_panic_threshold: int = 0


@dataclass(frozen=True, slots=True)
class OutlierDetection:
    """When an instance is avoided for its failures, before anyone else has noticed. Seconds."""

    # In a row: refused connections, lost ones, resets. An answer never counts, whatever it says: a
    # full queue, a version that is not loaded and a broken model are UNAVAILABLE or INTERNAL too,
    # and one client or model could eject a host that serves all others well.
    consecutive_local_origin_failure: int = 5
    interval: float = 0.5
    # Multiplied by the number of ejections so far, up to the maximum. Short, because by then the
    # health checks have had several turns to confirm it.
    base_ejection_time: float = 2.0
    max_ejection_time: float = 30.0
    # Percent of the hosts that may get requests. Half: of two, one may go; a single one never does,
    # since a doubtful one is better than none.
    max_ejection_percent: int = 50


@dataclass(frozen=True, slots=True)
class Retry:
    """When a request is sent again. Seconds."""

    # One, so that a request which kills its server kills two of them at most.
    num_retries: int = 1
    # First pause; doubles with each retry (at random within), and never exceeds the maximum.
    # Short, since a retry goes to another host.
    base_interval: float = 0.005
    max_interval: float = 0.1
    # Picks of an instance that was tried already, before one is taken after all. Of two that share
    # the requests, a dead one has the fewest in flight and is picked three times of four; of two by
    # weight, the greater one. Picks cost next to nothing.
    host_selection_retry_max_attempts: int = 1000
    # What a request may have failed with through no fault of its own. INTERNAL and UNKNOWN are how
    # a model fails, and how one whose process died does; NOT_FOUND is a model that an instance has
    # lost; UNAVAILABLE a full queue, or a version that is not loaded.
    retryable_status_codes: tuple[StatusCode, ...] = (
        StatusCode.UNKNOWN,
        StatusCode.NOT_FOUND,
        StatusCode.INTERNAL,
        StatusCode.UNAVAILABLE,
    )
    # False: requests have side effects, and one that may have reached a server is never sent again.
    idempotent: bool = True


@dataclass(frozen=True, slots=True)
class Connection:
    """Connections from Envoy to Triton. Seconds, bytes."""

    # In a data centre a connection takes a millisecond or is not going to come; a retry waits for
    # this. Above one lost SYN (retransmitted after 1 s) there would be nothing to gain.
    connect_timeout: float = 0.5
    # A frozen machine or a pulled cable is noticed after at most the sum of these; the requests
    # stuck there are reset, and retried elsewhere. Shorter would take a busy server's pause for
    # its death and cut its streams. Triton has to allow such frequent pings.
    keepalive_interval: float = 0.5
    keepalive_timeout: float = 0.5
    # Read-ahead per connection and direction, and of each answer: what a slow client of one Triton
    # can pile up. Larger messages pass through in pieces. An answer is as fast as this divided by
    # the round trip: 1 GB/s at 1 ms.
    per_connection_buffer_limit_bytes: int = 1 * MIB


@dataclass(frozen=True, slots=True)
class Match:
    """Which requests are for the service, beside those whose `:authority` is its name."""

    authorities: tuple[str, ...] = ()
    path_prefixes: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Admission:
    """Which methods pass beside those that every client needs."""

    methods: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TrafficPolicy:
    """All of it; what a service gets without a document are the defaults.

    `weights` holds instance ids with their weights, sorted by id; for `Mode.WEIGHTED`.
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

    @property
    def times_out_attempts(self) -> bool:
        """Whether an attempt ends for being slow, so that another one is made."""
        again = self.retry.idempotent and self.retry.num_retries > 0
        return again and self.limits.per_try_idle_timeout is not None


DEFAULTS = TrafficPolicy()
