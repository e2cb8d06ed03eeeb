"""Prometheus metrics of the sidecar, and the endpoint that serves them."""

from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, start_http_server

from sidecar.errors import ConfigError
from sidecar.events import (
    CanarySent,
    Event,
    Probed,
    ProbingLimited,
    Published,
    RecoveryActed,
    RecoveryDecided,
    RequestFailed,
    RoleChanged,
    VerdictChanged,
)
from sidecar.health.evidence import Reason
from sidecar.health.verdict import UNPROVEN, State
from sidecar.settings.values import split_address

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class MetricsHook:
    """Counts and measures events into a registry of its own."""

    def __init__(self, roles: list[str]) -> None:
        self.registry = CollectorRegistry()
        self._state = Enum(
            "triton_sidecar_verdict",
            "The verdict on this Triton.",
            states=[state.value for state in State],
            registry=self.registry,
        )
        self._reason = Enum(
            "triton_sidecar_verdict_reason",
            "Why the verdict is as it is.",
            states=[reason.value for reason in Reason],
            registry=self.registry,
        )
        self._role = Enum(
            "triton_sidecar_role",
            "The role of this instance.",
            states=roles,
            registry=self.registry,
        )
        self._epoch = Gauge(
            "triton_sidecar_epoch",
            "The epoch that this instance holds, 0 if it is not primary.",
            registry=self.registry,
        )
        self._probe = Histogram(
            "triton_sidecar_probe_seconds",
            "Time that one probe took, by layer, model and result.",
            ("layer", "model", "reason"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._level = Gauge(
            "triton_sidecar_layer_level",
            "What a layer found last: 0 is good, 1 a warning, 2 critical, -1 unknown.",
            ("layer", "model"),
            registry=self.registry,
        )
        self._canaries = Counter(
            "triton_sidecar_canaries",
            "Canaries sent, by model: the load that probing puts on it.",
            ("model",),
            registry=self.registry,
        )
        self._canary_rate = Gauge(
            "triton_sidecar_canary_rate_limit",
            "Canaries a second that are never exceeded, over all models.",
            registry=self.registry,
        )
        self._weight = Gauge(
            "triton_sidecar_weight_percent",
            "How much of its weight the instance gets: 100 unless in WARNING, 0 without traffic.",
            registry=self.registry,
        )
        self._recovery = Enum(
            "triton_sidecar_recovery",
            "What recovery is at; `give up` waits for people.",
            states=["idle", "wait", "act", "give up"],
            registry=self.registry,
        )
        self._actions = Counter(
            "triton_sidecar_recovery_actions",
            "Actions taken on an ill Triton, by whether they did what they should.",
            ("result",),
            registry=self.registry,
        )
        self._published = Histogram(
            "triton_sidecar_publication_seconds",
            "From the finding that changed the verdict to Consul's confirmation.",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._failures = Counter(
            "triton_sidecar_request_errors",
            "Requests to outside systems that failed.",
            ("system", "operation", "error"),
            registry=self.registry,
        )
        self(VerdictChanged(UNPROVEN, UNPROVEN))

    def __call__(self, event: Event) -> None:
        """Count one event."""
        self._count_health(event)
        self._count_operation(event)

    def _count_health(self, event: Event) -> None:
        match event:
            case Probed(findings):
                for finding in findings:
                    layer = (finding.layer, finding.subject)
                    self._level.labels(*layer).set(finding.level)
                    self._probe.labels(*layer, finding.reason.value).observe(finding.seconds)
            case ProbingLimited(canary_rate):
                self._canary_rate.set(canary_rate)
            case CanarySent(model):
                self._canaries.labels(model).inc()
            case VerdictChanged(_, after):
                warned = after.weight if after.state is State.WARNING else 100
                self._weight.set(warned if after.serving else 0)
                self._state.state(after.state.value)
                self._reason.state(after.reason.value)
            case RecoveryDecided(outcome):
                self._recovery.state(outcome)
            case RecoveryActed(error=error):
                self._actions.labels("error" if error else "done").inc()

    def _count_operation(self, event: Event) -> None:
        match event:
            case Published(_, seconds):
                self._published.observe(seconds)
            case RoleChanged(_, after, epoch, _):
                self._role.state(after)
                self._epoch.set(epoch)
            case RequestFailed(system, operation, error):
                self._failures.labels(system, operation, type(error).__name__).inc()


def serve(registry: CollectorRegistry, key: str, address: str) -> None:
    """Serve `/metrics` from a thread of its own; `key` names the setting of the address.

    Raises:
        ConfigError: the address cannot be bound.
    """
    host, port = split_address(address)
    try:
        start_http_server(port, host, registry)
    except OSError as error:
        raise ConfigError(f"{key}: expected an address that can be bound: {error}") from error
