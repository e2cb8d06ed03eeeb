"""Prometheus metrics of the sidecar, and the endpoint that serves them."""

import math
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from sidecar.events import (
    CanarySent,
    ConnectionsReset,
    DrillProgressed,
    DrillSeen,
    Event,
    FailbackDue,
    HookRan,
    ModelFilesDiffer,
    ModelSetCompared,
    NotificationDropped,
    Paused,
    Probed,
    ProbingLimited,
    Promoted,
    Published,
    RecoveryActed,
    RecoveryDecided,
    Reloaded,
    RequestFailed,
    RoleChanged,
    VerdictChanged,
)
from sidecar.runtime.addresses import split_address
from sidecar.runtime.listening import refuse_taken, unusable
from sidecar.telemetry import logs
from sidecar.verdict.evidence import Layer, Reason
from sidecar.verdict.verdict import UNPROVEN
from sidecar.verdict.verdict_line import State

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


# For the other layers the time is not that of a probe.
_TIMED = frozenset({Layer.PORT, Layer.LIVE, Layer.READY, Layer.MODEL, Layer.CANARY})


class MetricsHook:
    """Counts and measures events into its own registry."""

    def __init__(self, roles: Sequence[str]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(LogLines())
        self._parts = (
            _Health(self.registry),
            _Election(self.registry, roles),
            _Recovery(self.registry),
            _Operation(self.registry),
            _Drills(self.registry),
        )
        self(VerdictChanged(UNPROVEN, UNPROVEN))

    def __call__(self, event: Event) -> None:
        """Count one event."""
        for part in self._parts:
            part(event)


class _Health:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._state = _enum_gauge(
            registry,
            "triton_sidecar_verdict",
            "The verdict on Triton: 1 for the current state.",
            "state",
            list(State),
        )
        self._reason = _enum_gauge(
            registry,
            "triton_sidecar_verdict_reason",
            "The reason for the verdict: 1 for the current one.",
            "reason",
            list(Reason),
        )
        self._probe = Histogram(
            "triton_sidecar_probe_seconds",
            "Duration of probes, by layer, model and result.",
            ("layer", "model", "reason"),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._level = Gauge(
            "triton_sidecar_layer_level",
            "Latest finding of each layer: 0 good, 1 warning, 2 critical, -1 unknown.",
            ("layer", "model"),
            registry=registry,
        )
        self._canaries = Counter(
            "triton_sidecar_canaries",
            "Canaries sent, by model.",
            ("model",),
            registry=registry,
        )
        self._canary_rate = Gauge(
            "triton_sidecar_canary_rate_limit",
            "Upper limit on canaries per second, across all models.",
            registry=registry,
        )
        self._weight = Gauge(
            "triton_sidecar_weight_percent",
            "Share of its weight that the instance gets: 100 unless WARNING, 0 if out of service.",
            registry=registry,
        )
        self._unusable = Gauge(
            "triton_sidecar_models_unusable",
            "Models that the instance does not serve, where it does not need all of them.",
            registry=registry,
        )

    def __call__(self, event: Event) -> None:
        match event:
            case Probed(findings):
                for finding in findings:
                    layer = (finding.layer, finding.subject)
                    self._level.labels(*layer).set(finding.level)
                    if finding.layer in _TIMED and finding.reason is not Reason.EVIDENCE_STALE:
                        self._probe.labels(*layer, finding.reason.value).observe(finding.seconds)
            case ProbingLimited(canary_rate):
                self._canary_rate.set(canary_rate)
            case CanarySent(model):
                self._canaries.labels(model).inc()
            case VerdictChanged(_, after):
                warned = after.weight if after.state is State.WARNING else 100
                self._weight.set(warned if after.serving else 0)
                self._unusable.set(len(after.unusable))
                self._state(after.state)
                self._reason(after.reason)


class _Recovery:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._outcome = _enum_gauge(
            registry,
            "triton_sidecar_recovery",
            "State of recovery; `give up` needs an operator. In a dry run it is always `idle`.",
            "outcome",
            ["idle", "wait", "act", "give up"],
        )
        self._actions = Counter(
            "triton_sidecar_recovery_actions",
            "Recovery actions taken on Triton, by result.",
            ("result",),
            registry=registry,
        )

    def __call__(self, event: Event) -> None:
        match event:
            case RecoveryDecided(outcome, dry_run=dry_run):
                self._outcome("idle" if dry_run else outcome)
            case RecoveryActed(error=error):
                self._actions.labels("error" if error else "done").inc()


class _Election:
    def __init__(self, registry: CollectorRegistry, roles: Sequence[str]) -> None:
        self._role = _enum_gauge(
            registry,
            "triton_sidecar_role",
            "The role of this instance: 1 for the current one.",
            "role",
            roles,
        )
        self._epoch = Gauge(
            "triton_sidecar_epoch",
            "The epoch that this instance holds; 0 unless it is primary.",
            registry=registry,
        )
        self._changes = Counter(
            "triton_sidecar_role_changes",
            "Role changes of this instance, by new role.",
            ("role",),
            registry=registry,
        )
        self._promotions = Counter(
            "triton_sidecar_promotions",
            "Promotions of this instance from cold standby, by result.",
            ("result",),
            registry=registry,
        )
        self._paused = Gauge(
            "triton_sidecar_paused", "1 while automation is paused.", registry=registry
        )
        self._failback = Gauge(
            "triton_sidecar_failback_due",
            "1 if this instance is preferred over the primary and can take the role back.",
            registry=registry,
        )
        self._mismatch = Gauge(
            "triton_sidecar_model_set_mismatch",
            "1 if this instance's model set differs from the primary's, or from the declared one.",
            registry=registry,
        )
        self._astray = Gauge(
            "triton_sidecar_model_files_astray",
            "Models whose files on disk differ from what is loaded.",
            registry=registry,
        )

    def __call__(self, event: Event) -> None:
        match event:
            case RoleChanged(_, after, epoch, _):
                self._role(after)
                self._epoch.set(epoch)
                self._changes.labels(after).inc()
            case Promoted(error=error):
                self._promotions.labels("error" if error else "done").inc()
            case Paused(why):
                self._paused.set(bool(why))
            case FailbackDue(due):
                self._failback.set(due)
            case ModelSetCompared(differs):
                self._mismatch.set(bool(differs))
            case ModelFilesDiffer(models):
                self._astray.set(len(models))


class _Drills:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._drills = Counter(
            "triton_sidecar_drills",
            "Drills on this instance, by scenario and what became of them.",
            ("scenario", "phase"),
            registry=registry,
        )
        self._last = Gauge(
            "triton_sidecar_last_drill_timestamp_seconds",
            "When the service's last drill ended; 0: never, NaN: unknown, or none is permitted.",
            registry=registry,
        )
        self._last.set(math.nan)

    def __call__(self, event: Event) -> None:
        match event:
            case DrillProgressed(phase, scenario):
                self._drills.labels(scenario, phase).inc()
            case DrillSeen(ended):
                self._last.set(ended)


class _Operation:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._reloads = Counter(
            "triton_sidecar_reloads",
            "Reloads of the settings, by result.",
            ("result",),
            registry=registry,
        )
        self._reloaded = Gauge(
            "triton_sidecar_last_reload_successful",
            "1 if the last reload succeeded; 0 if the files hold invalid settings.",
            registry=registry,
        )
        self._reloaded.set(1)
        self._published = Histogram(
            "triton_sidecar_publication_seconds",
            "Time from the finding that changed the verdict to Consul's confirmation.",
            buckets=_BUCKETS,
            registry=registry,
        )
        self._hooks = Counter(
            "triton_sidecar_hooks",
            "Runs of hook commands, by hook and result.",
            ("hook", "result"),
            registry=registry,
        )
        self._dropped = Counter(
            "triton_sidecar_notifications_dropped",
            "Notifications dropped, by hook or webhook.",
            ("target",),
            registry=registry,
        )
        self._cut = Counter(
            "triton_sidecar_drain_connections_cut",
            "Triton's connections reset because a drain timed out.",
            registry=registry,
        )
        self._failures = Counter(
            "triton_sidecar_request_errors",
            "Failed requests to Consul, Triton and other systems.",
            ("system", "operation", "error"),
            registry=registry,
        )

    def __call__(self, event: Event) -> None:
        match event:
            case Published(_, seconds):
                self._published.observe(seconds)
            case Reloaded(error=error):
                self._reloads.labels("error" if error else "done").inc()
                self._reloaded.set(0 if error else 1)
            case HookRan(hook, error=error):
                self._hooks.labels(hook, "error" if error else "done").inc()
            case ConnectionsReset(count):
                self._cut.inc(count)
            case NotificationDropped(target):
                self._dropped.labels(target).inc()
            case RequestFailed(system, operation, error):
                self._failures.labels(system, operation, type(error).__name__).inc()


class LogLines(Collector):
    """Counts the dropped lines of the log."""

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the current count."""
        text = "Log lines dropped because the disk was full or the reader too slow."
        name = "triton_sidecar_log_lines_dropped"
        yield CounterMetricFamily(name, text, logs.writer().dropped)


def _enum_gauge(
    registry: CollectorRegistry, name: str, text: str, label: str, values: Sequence[str]
) -> Callable[[str], None]:
    """A gauge with a sample for each value, one of which is 1; returns its setter."""
    gauge = Gauge(name, text, (label,), registry=registry)

    def set_to(value: str) -> None:
        for each in values:
            gauge.labels(str(each)).set(each == value)

    set_to(values[0])
    return set_to


def serve(registry: CollectorRegistry, key: str, address: str) -> None:
    """Serve `/metrics` from a separate thread; `key` names the setting of the address.

    Raises:
        ConfigError: the address cannot be bound.
    """
    refuse_taken(key, address)
    host, port = split_address(address)
    try:
        start_http_server(port, host, registry)
    except OSError as error:
        raise unusable(key, address, error.strerror or str(error)) from error
