"""The control plane's log lines and counters: what watches, streams, releases and files report.

Acts: through what it imports or is given.
"""

from pathlib import Path
from typing import TypeVar

import structlog

from sidecar.runtime.clock import Clock
from sidecar.xds.ads.subscription import Reply
from sidecar.xds.ads.type_names import short
from sidecar.xds.catalog.catalog_entries import SkippedEntry
from sidecar.xds.catalog.instance_watch import VERIFICATION, RetainedInstance
from sidecar.xds.metrics import ControlPlaneMetrics

# Seconds: Consul answers a quiet watch after 30, and a streamed answer is confirmed after 15 more.
_FROZEN = 90.0
_DISK = "disk"  # the source of answers before Consul's first one

Reported = TypeVar("Reported", RetainedInstance, SkippedEntry)


def rounded(seconds: float) -> str:
    """A time span in the unit that a person would use."""
    units = (("d", 86400.0), ("h", 3600.0), ("min", 60.0))
    unit, size = next((each for each in units if seconds >= 2 * each[1]), ("s", 1.0))
    return f"{seconds / size:.0f} {unit}"


class Observer:
    """Counts and logs what watches, streams, releases and the state file report."""

    def __init__(
        self,
        metrics: ControlPlaneMetrics,
        clock: Clock,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._log = log
        # By service and watch: time of the last answer, or of the first failure if there was no
        # answer.
        self._answered: dict[str, dict[str, float]] = {}
        self._failing: dict[tuple[str, str], str] = {}
        self._stale: set[str] = set()
        self._refused: set[str] = set()
        # By service and kind of report, the last report.
        self._reported: dict[tuple[str, str], frozenset[RetainedInstance | SkippedEntry]] = {}
        self._unwritten = ""
        self._consul_answered = False  # whether Consul ever answered

    def answered(self, service: str, what: str) -> None:
        """See `WatchListener`."""
        self._times(service)[what] = self._clock.now()
        self._consul_answered = True
        if self._failing.pop((service, what), None) is not None:
            self._log.info("catalog_recovered", service=service, what=what)

    def failed(self, service: str, what: str, why: str) -> None:
        """See `WatchListener`. The same failure is not logged twice in a row."""
        self._times(service).setdefault(what, self._clock.now())
        self._metrics.watch_errors.labels(service).inc()
        if self._failing.get((service, what)) != why:
            if what == VERIFICATION:
                self._log.warning("catalog_verification_failed", service=service, why=why)
            else:
                self._log.warning("catalog_frozen", service=service, what=what, why=why)
        self._failing[service, what] = why

    def _times(self, service: str) -> dict[str, float]:
        """When Consul last answered each watch; the catalog is as old as the oldest answer."""
        if service not in self._answered:
            times = self._answered[service] = {}
            self._metrics.catalog_age.labels(service).set_function(
                lambda: self._clock.now() - min(times.values(), default=self._clock.now())
            )
        return self._answered[service]

    @property
    def status(self) -> str:
        """What an operator should know about the catalog; empty while it follows Consul."""
        now = self._clock.now()
        old = [
            at
            for service, times in self._answered.items()
            for what, at in times.items()
            if what != VERIFICATION
            and (self._stale or (service, what) in self._failing or at <= now - _FROZEN)
        ]
        problems = []
        if old:
            known = self._consul_answered or self._stale
            problems = [f"catalog {rounded(now - min(old))} old" if known else "no catalog yet"]
        problems += ["stale from disk"] if self._stale else []
        problems += sorted(set(self._failing.values()))
        problems += [f"the policy of {service} is ignored" for service in sorted(self._refused)]
        return "; ".join(problems)

    def ended(self, service: str) -> None:
        """See `WatchListener`."""
        if self._answered.pop(service, None) is not None:
            self._metrics.catalog_age.remove(service)
        for known in (self._failing, self._reported):
            for place in [place for place in known if place[0] == service]:
                del known[place]
        for says in ("serves", "nothing"):
            self._metrics.retained.labels(service, says).set(0)

    def retained(self, service: str, found: tuple[RetainedInstance, ...]) -> None:
        """See `WatchListener`. Logs only the instances that are newly retained."""
        serving = sum(each.serves for each in found)
        self._metrics.retained.labels(service, "serves").set(serving)
        self._metrics.retained.labels(service, "nothing").set(len(found) - serving)
        if new := self._new(service, "held", found):
            serve = [each.id for each in new if each.serves]
            silent = [each.id for each in new if not each.serves]
            self._log.warning("instances_held", service=service, serving=serve, silent=silent)
        elif not found:
            self._log.info("instances_released", service=service)

    def dropped(self, service: str, instance: str, why: str) -> None:
        """See `WatchListener`."""
        self._metrics.dropped.labels(service).inc()
        self._log.warning("instance_dropped", service=service, instance=instance, why=why)

    def policy_refused(self, service: str, why: str) -> None:
        """See `WatchListener`."""
        self._metrics.policy_refused.labels(service).set(bool(why))
        (self._refused.add if why else self._refused.discard)(service)
        if why:
            self._log.error("policy_rejected", service=service, why=why)
        else:
            self._log.info("policy_accepted", service=service)

    def unconfirmed(self, service: str, stale: bool) -> None:
        """See `WatchListener`."""
        self._metrics.stale.labels(service).set(stale)
        (self._stale.add if stale else self._stale.discard)(service)
        if not stale:
            self._times(service).pop(_DISK, None)
            self._log.info("cached_catalog_confirmed", service=service)

    def state_read(self, path: Path, age: float, services: tuple[str, ...]) -> None:
        """See `StateFileListener`."""
        for service in services:
            self._times(service)[_DISK] = self._clock.now() - age
        self._log.warning("cached_catalog_published", file=str(path), age=rounded(age))

    def state_refused(self, path: Path, why: str) -> None:
        """See `StateFileListener`."""
        self._metrics.state_errors.inc()
        self._log.error("cached_catalog_rejected", file=str(path), why=why)

    def state_written(self) -> None:
        """See `StateFileListener`."""
        if self._unwritten:
            self._log.info("cached_catalog_saved")
        self._unwritten = ""

    def state_unwritten(self, path: Path, why: str) -> None:
        """See `StateFileListener`. The same failure is not logged twice in a row."""
        self._metrics.state_errors.inc()
        if why != self._unwritten:
            self._log.error("cached_catalog_not_saved", file=str(path), why=why)
        self._unwritten = why

    def skipped(self, service: str, found: tuple[SkippedEntry, ...]) -> None:
        """See `WatchListener`. Logs only the entries that are newly skipped."""
        self._metrics.skipped.labels(service).set(sum(not entry.partly for entry in found))
        for entry in self._new(service, "left out", found):
            instance, reason = entry.id, entry.reason
            if entry.partly:
                self._log.info(
                    "entry_field_ignored", service=service, instance=instance, reason=reason
                )
            else:
                self._log.info("entry_left_out", service=service, instance=instance, reason=reason)

    def _new(self, service: str, what: str, found: tuple[Reported, ...]) -> list[Reported]:
        """Those that the last report did not contain."""
        before = self._reported.get((service, what), frozenset())
        self._reported[service, what] = frozenset(found)
        return [each for each in found if each not in before]

    def connected(self, node: str) -> None:
        """See `ServerListener`."""
        self._log.info("envoy_connected", node=node)

    def shared(self, node: str) -> None:
        """See `ServerListener`."""
        self._log.warning("envoy_node_id_shared", node=node)

    def disconnected(self, node: str) -> None:
        """See `ServerListener`."""
        self._log.info("envoy_disconnected", node=node)

    def nacked(self, node: str, reply: Reply, reason: str) -> None:
        """See `ServerListener`."""
        self._log.error(
            "envoy_rejected_config",
            node=node,
            type=short(reply.type_url),
            version=reply.version,
            reason=reason,
        )

    def guard_blind(self, service: str) -> None:
        """See `ReleaseListener`."""
        self._log.warning("release_guard_blind", service=service)

    def guard_tripped(self, service: str, why: str) -> None:
        """See `ReleaseListener`."""
        self._metrics.release_rollbacks.labels(service).inc()
        self._log.error("release_rolled_back", service=service, why=why)

    def rollback_kept(self, service: str, why: str) -> None:
        """See `ReleaseListener`."""
        self._log.warning("release_still_rolled_back", service=service, why=why)

    def rollback_written(self, service: str, why: str) -> None:
        """See `ReleaseListener`."""
        self._metrics.rollback_unwritten.labels(service).set(0)
        self._failing.pop((service, "rollback"), None)
        self._log.info("rollback_saved", service=service, why=why)

    def rollback_unwritten(self, service: str, why: str) -> None:
        """See `ReleaseListener`. The same failure is not logged twice in a row."""
        self._metrics.rollback_unwritten.labels(service).set(1)
        if self._failing.get((service, "rollback")) != why:
            self._log.warning("rollback_not_saved", service=service, why=why)
        self._failing[service, "rollback"] = why

    def rollback_ended(self, service: str) -> None:
        """See `ReleaseListener`."""
        self._metrics.rollback_unwritten.labels(service).set(0)
        self._failing.pop((service, "rollback"), None)
        self._log.info("rollback_ended", service=service)
