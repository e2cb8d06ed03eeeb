"""The control plane's metrics and logs. Times in seconds."""

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sidecar.clock import Clock
from sidecar.xds.evidence import LeftOut
from sidecar.xds.subscription import Reply

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class ControlPlaneMetrics:
    """Metrics on a registry of their own, so that several control planes fit in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.envoys = self._gauge("envoys", "Envoys with an open ADS stream.")
        self.pushes = self._counter("pushes", "Replies sent, by type of resource.", "type")
        self.refusals = self._counter(
            "refusals", "Replies that an Envoy refused (NACK), by type of resource.", "type"
        )
        self.convergence = Histogram(
            "triton_sidecar_xds_convergence_seconds",
            "From a change of the catalog until the last Envoy that was told has confirmed it.",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.catalog_age = self._gauge(
            "catalog_age_seconds",
            "Since Consul last answered both watches of the service, that of its instances and "
            "that of its lock. It answers a quiet watch after 30 s; "
            "a higher age means that the catalog is frozen.",
            "service",
        )
        self.left_out = self._gauge(
            "entries_left_out", "Entries of the catalog that cannot be used.", "service"
        )
        self.watch_errors = self._counter(
            "watch_errors", "Questions to Consul from which nothing was learnt.", "service"
        )

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"triton_sidecar_xds_{name}", text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"triton_sidecar_xds_{name}", text, labels, registry=self.registry)


class Observer:
    """Hears what watches and streams have to say; counts it and writes it down."""

    def __init__(
        self,
        metrics: ControlPlaneMetrics,
        clock: Clock,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._log = log
        # By service and by what is watched of it; before the first answer, since the first failure.
        self._answered: dict[str, dict[str, float]] = {}
        self._failing: dict[tuple[str, str], str] = {}

    def answered(self, service: str, what: str) -> None:
        """See `WatchListener`."""
        self._times(service)[what] = self._clock.now()
        if self._failing.pop((service, what), None) is not None:
            self._log.info("catalog follows Consul again", service=service, what=what)

    def failed(self, service: str, what: str, why: str) -> None:
        """See `WatchListener`. The same trouble again is not written down again."""
        self._times(service).setdefault(what, self._clock.now())
        self._metrics.watch_errors.labels(service).inc()
        if self._failing.get((service, what)) != why:
            self._log.warning("catalog frozen", service=service, what=what, why=why)
        self._failing[service, what] = why

    def _times(self, service: str) -> dict[str, float]:
        """When Consul last answered; the age of the service is that of the older answer."""
        if service not in self._answered:
            times = self._answered[service] = {}
            self._metrics.catalog_age.labels(service).set_function(
                lambda: self._clock.now() - min(times.values(), default=self._clock.now())
            )
        return self._answered[service]

    def left_out(self, service: str, found: tuple[LeftOut, ...]) -> None:
        """See `WatchListener`."""
        self._metrics.left_out.labels(service).set(len(found))
        for entry in found:
            self._log.info(
                "entry left out", service=service, instance=entry.id, reason=entry.reason
            )

    def connected(self, node: str) -> None:
        """See `ServerListener`."""
        self._log.info("envoy connected", node=node)

    def shared(self, node: str) -> None:
        """See `ServerListener`."""
        self._log.warning(
            "two streams of one node id: an Envoy has come back, or two have the same id, and "
            "their load reports cannot be told apart",
            node=node,
        )

    def disconnected(self, node: str) -> None:
        """See `ServerListener`."""
        self._log.info("envoy disconnected", node=node)

    def refused(self, node: str, reply: Reply, reason: str) -> None:
        """See `ServerListener`."""
        self._log.error(
            "envoy refused a configuration",
            node=node,
            type=reply.type_url.rpartition(".")[2],
            version=reply.version,
            reason=reason,
        )
