"""The control plane's Prometheus metrics. Times in seconds.

Acts: through what it imports or is given.
"""

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sidecar.telemetry.metrics import LogLines

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

Count = Callable[[], int]


class ControlPlaneMetrics:
    """Metrics on a separate registry, so that several control planes fit in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(LogLines())
        self.envoys = self._gauge("envoys", "Envoys with an open ADS stream.")
        self.pushes = self._counter("pushes", "xDS responses sent, by resource type.", "type")
        self.refusals = self._counter(
            "refusals", "xDS responses that an Envoy rejected (NACK), by resource type.", "type"
        )
        self.refusing = self._gauge(
            "refusing",
            "Envoys that still run an older config because they rejected the newest (NACK).",
        )
        self.waiting = self._gauge(
            "waiting", "ADS streams that wait for admission because too many connected at once."
        )
        self.resources = self._gauge("resources", "Resources published, by type.", "type")
        self.convergence = Histogram(
            "triton_sidecar_xds_convergence_seconds",
            "Time from Consul's response until the last Envoy acknowledged the change (ACK).",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.catalog_age = self._gauge(
            "catalog_age_seconds",
            "Time since Consul's servers last answered every watch of the service: its instances, "
            "lock and policy. They answer a quiet watch within 50 s; above that, the catalog is "
            "frozen. Another datacenter's instances count as service@datacenter.",
            "service",
        )
        self.skipped = self._gauge(
            "entries_left_out", "Catalog entries that cannot be used.", "service"
        )
        self.watch_errors = self._counter(
            "watch_errors", "Failed queries of Consul's catalog and KV store.", "service"
        )
        self.retained = self._gauge(
            "held_evictions",
            "Instances that vanished from Consul and are kept, by what they report themselves.",
            "service",
            "says",
        )
        self.dropped = self._counter(
            "dropped",
            "Instances removed because they vanished from Consul and did not return.",
            "service",
        )
        self.release_rollbacks = self._counter(
            "release_rollbacks", "Releases that the guard rolled back here.", "service"
        )
        self.rollback_unwritten = self._gauge(
            "rollback_unwritten",
            "1 while a rollback is in force here but could not be written to Consul.",
            "service",
        )
        self.policy_refused = self._gauge(
            "policy_refused",
            "1 while the policy in Consul is invalid and the last valid one stays in force.",
            "service",
        )
        self.stale = self._gauge(
            "stale",
            "1 while the service is published from the disk cache, unconfirmed by Consul.",
            "service",
        )
        self.trials = self._counter(
            "trials",
            "Trials of requests that were in flight when two instances crashed, by outcome.",
            "outcome",
        )
        self.state_errors = self._counter(
            "state_errors", "Failures to read or write the cached catalog."
        )

    def watch(self, refusing: Count, waiting: Count, resources: Mapping[str, Count]) -> None:
        """Read these values from the server at each scrape, in another thread."""
        self.refusing.set_function(refusing)
        self.waiting.set_function(waiting)
        for name, count in resources.items():
            self.resources.labels(name).set_function(count)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"triton_sidecar_xds_{name}", text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"triton_sidecar_xds_{name}", text, labels, registry=self.registry)
