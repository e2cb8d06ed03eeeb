"""From the newest catalog to the newest snapshot, and how long Envoys take to follow."""

from collections.abc import Callable
from dataclasses import dataclass

from sidecar.clock import Clock
from sidecar.latest import Latest
from sidecar.xds.catalog import Catalog
from sidecar.xds.edge import Edge
from sidecar.xds.snapshot import Snapshot, build
from sidecar.xds.subscription import Reply


class Publication:
    """Builds a snapshot for each catalog; `snapshot` is None until there was one."""

    def __init__(self, catalog: Latest[Catalog | None], edge: Edge, clock: Clock) -> None:
        self.snapshot: Latest[Snapshot | None] = Latest(None)
        self._catalog = catalog
        self._edge = edge
        self.clock = clock
        # When (monotonic seconds) the newest snapshot was made.
        self.changed_at = clock.now()

    async def run(self) -> None:
        """Publish for ever."""
        async for catalog in self._catalog:
            if catalog is None:
                continue
            snapshot = build(catalog, self._edge)
            if snapshot != self.snapshot.value:
                self.changed_at = self.clock.now()
                self.snapshot.set(snapshot)


@dataclass(slots=True)
class _Round:
    started: float
    outstanding: int = 0


class Convergence:
    """Measures how long it takes until every Envoy that was told of a change has confirmed it."""

    def __init__(self, clock: Clock, observe: Callable[[float], None]) -> None:
        self._clock = clock
        self._observe = observe
        self._rounds: dict[str, _Round] = {}

    def sent(self, reply: Reply, changed_at: float) -> None:
        """A reply went out; one without news is of no interest."""
        if reply.news:
            version = reply.snapshot.version
            self._rounds.setdefault(version, _Round(changed_at)).outstanding += 1

    def answered(self, reply: Reply, *, confirmed: bool) -> None:
        """An Envoy confirmed the reply, or will not: it refused, or its stream ended."""
        found = self._rounds.get(reply.snapshot.version)
        if not reply.news or found is None:
            return
        found.outstanding -= 1
        if found.outstanding <= 0:
            del self._rounds[reply.snapshot.version]
            if confirmed:
                self._observe(self._clock.now() - found.started)
