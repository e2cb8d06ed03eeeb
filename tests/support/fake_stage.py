"""A stage without a mesh: instance `a` is primary, `b` standby; requests are answered at once."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from sidecar.drill.environment import Surroundings
from sidecar.drill.load.messages import Counts
from sidecar.drill.samples import Outcome, Sample
from sidecar.drill.scenario import Expectation, Need, Scenario
from sidecar.drill.stage.observation import Observation
from sidecar.runtime.errors import SidecarError

_PACE = 0.002  # seconds between two samples


@dataclass
class FakeLoad:
    """Samples that come while the context lasts, with this outcome; `broken` is its end."""

    samples: list[Sample] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    outcome: Outcome = "answered"
    broken: SidecarError | None = None

    def check(self) -> None:
        if self.broken:
            raise self.broken


class FakeStage:
    """Implements drill's `Stage`; what a test does to it is in its attributes."""

    def __init__(self) -> None:
        self.offers = frozenset[Need]({"processes"})
        self.lacking: Mapping[Need, str] = {}
        self.load = FakeLoad()
        self.unsteady: SidecarError | None = None
        self.cached = False  # whether the load was to ask for cached answers
        self.injected, self.removed = asyncio.Event(), 0
        self.takes = 0.0  # seconds that the injection takes,
        self.ago: float | None = None  # and how long ago it was then, if it had to be ordered
        self.fails_to_inject: SidecarError | None = None
        self.fails_to_remove: SidecarError | None = None

    async def surroundings(self) -> Surroundings:
        return Surroundings("none", {})

    async def steady(self, patience: float = 1.0) -> None:
        if self.unsteady:
            raise self.unsteady

    async def healthy(self) -> frozenset[str]:
        return frozenset({"a", "b"})

    async def primary(self) -> str:
        return "a"

    async def standby(self) -> str:
        return "b"

    async def retries(self) -> int | None:
        return 0

    @asynccontextmanager
    async def observed(self) -> AsyncIterator[Observation]:
        yield Observation()

    @asynccontextmanager
    async def loaded(
        self, spec: object, *, began: float, seed: int, cached: bool = False
    ) -> AsyncIterator[FakeLoad]:
        self.cached = cached
        sending = asyncio.create_task(self._send())
        try:
            yield self.load
        finally:
            sending.cancel()

    async def _send(self) -> None:
        began = asyncio.get_running_loop().time()
        while True:
            due = asyncio.get_running_loop().time() - began
            for kind in ("unary", "stream"):
                self.load.samples.append(Sample(kind, 0, due, 0.001, self.load.outcome, "b"))
            await asyncio.sleep(_PACE)

    @asynccontextmanager
    async def fault(self, _: Any, victim: str) -> AsyncIterator[float | None]:
        """The injection of the scenario below."""
        if self.fails_to_inject:
            raise self.fails_to_inject
        await asyncio.sleep(self.takes)
        self.injected.set()
        try:
            yield self.ago
        finally:
            self.removed += 1
            if self.fails_to_remove:
                raise self.fails_to_remove

    def scenario(self, lasts: float = 0.0) -> Scenario[Any]:
        """A scenario that expects nothing but answers."""
        expects = Expectation(moves_role=False)
        return Scenario("x", "X", "Nothing.", self.fault, expects=expects, lasts=lasts, settles=0.0)
