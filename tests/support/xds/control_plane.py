"""Our control plane, with a catalog that the test publishes."""

import asyncio
from dataclasses import replace

import structlog

from sidecar.runtime.clock import SystemClock
from sidecar.runtime.latest import Latest
from sidecar.traffic.policy import DEFAULTS, Connection, HealthCheck, TrafficPolicy
from sidecar.xds.ads.subscription import Reply
from sidecar.xds.catalog.catalog import Catalog, Instance, Leader, ServiceCatalog
from sidecar.xds.catalog.policy_indexes import PolicyIndexes
from sidecar.xds.config.edge import Edge
from sidecar.xds.config.snapshot import build
from sidecar.xds.envoys.envoy_stats import EnvoyCounters
from sidecar.xds.envoys.envoy_streams import ABSENCE
from sidecar.xds.metrics import ControlPlaneMetrics
from sidecar.xds.publication import Publication
from sidecar.xds.server import ControlPlaneServer

SERVICE = "triton"
# The Tritons and all clients share one process. If it stalls for a second, Envoy must not close
# connections or eject hosts that are healthy.
UNHURRIED = replace(
    DEFAULTS, connection=Connection(keepalive_timeout=30.0), health_check=HealthCheck(timeout=30.0)
)
_NEVER_CHANGED = PolicyIndexes()


class NackRecorder:
    """A listener that only records NACKs."""

    def __init__(self) -> None:
        self.nacks: list[str] = []

    def connected(self, node: str) -> None: ...

    def shared(self, node: str) -> None: ...

    def disconnected(self, node: str) -> None: ...

    def nacked(self, node: str, reply: Reply, reason: str) -> None:
        self.nacks.append(reason)


class _ShiftedClock(SystemClock):
    """A clock that can be moved forward."""

    ahead = 0.0

    def now(self) -> float:
        return super().now() + self.ahead


class ControlPlane:
    """Our control plane, whose catalog is set by `publish`."""

    def __init__(self, edge: Edge, *admin: str, first: bool = False) -> None:
        """A control plane that does not listen yet.

        Args:
            edge: the settings of the Envoys.
            admin: addresses of the Envoys whose counters are read.
            first: it has run for long enough to know that no control plane before it had Envoys.
                Any other may be a successor, whose drains wait for Envoys that may still connect.
        """
        self.edge = edge
        self.catalog: Latest[Catalog | None] = Latest(None)
        shifted = _ShiftedClock()
        self.publication = Publication(self.catalog, edge, shifted)
        self.metrics = ControlPlaneMetrics()
        self.listener = NackRecorder()
        clock, log = self.publication.clock, structlog.get_logger()
        self.counters = EnvoyCounters(admin, (SERVICE,), clock, log)
        self._server = ControlPlaneServer(
            self.catalog, self.publication, self.counters, self.metrics, self.listener
        )
        shifted.ahead = ABSENCE if first else 0.0

    async def start(self, port: int = 0) -> int:
        """Start to listen; gives the port."""
        emptied = self._server.envoys.empty_clusters(self.publication)
        quarantine = self._server.quarantine.run()
        loops = (self.publication.run(), self.counters.run(), emptied, quarantine)
        self._tasks = [asyncio.create_task(loop) for loop in loops]
        return await self._server.start(f"127.0.0.1:{port}")

    async def stop(self) -> None:
        """Stop as after SIGTERM."""
        await self._server.stop(2.0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def publish(
        self,
        *instances: Instance,
        leader: str | None = None,
        epoch: int = 1,
        settled: bool = True,
        policy: TrafficPolicy = UNHURRIED,
        zone: str = "",
        since: PolicyIndexes = _NEVER_CHANGED,
    ) -> None:
        """Set the catalog, as Consul would show it."""
        led = Leader(leader, epoch) if leader else None
        service = ServiceCatalog(SERVICE, instances, led, settled, policy, since)
        self.catalog.set(Catalog((service,), zone))

    @property
    def busy(self) -> bool:
        """Whether an Envoy has not acknowledged all of the last snapshot yet."""
        snapshot = self.publication.snapshot.value
        catalog, lingering = self.catalog.value, self.publication.lingering.value
        suspects = self.publication.suspects.value
        if catalog is None or snapshot != build(catalog, self.edge, lingering, suspects):
            return True
        return any(stream.ads.behind(snapshot) for stream in self._server.envoys.streams)

    def sample(self, name: str) -> float:
        """A metric's value, summed over its labels."""
        return sum(
            sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == f"triton_sidecar_xds_{name}"
        )
