"""The probe of a model's neighbours: which other models are loaded, and whether they progress.

Acts: asyncio.
"""

import asyncio
from collections.abc import Callable

from sidecar.health.neighbours import NOT_HELD, HeldUp, Neighbour, has_neighbours, held
from sidecar.health.probes.server_probe import ProbeContext
from sidecar.health.progress import Loads
from sidecar.runtime.errors import SidecarError
from sidecar.triton.api import ModelDescription


class NeighbourProbe:
    """Describes neighbours only when a canary that may wait for them is late, and once per load.

    `last_client_work` takes a model and when it last progressed, and gives when it last worked for
    clients.
    """

    def __init__(
        self, context: ProbeContext, last_client_work: Callable[[str, float | None], float | None]
    ) -> None:
        self._context = context
        self._last_client_work = last_client_work
        self._loads = Loads()
        self._moved: dict[str, float] = {}
        self._described: dict[str, tuple[int, ModelDescription]] = {}

    def note(self, loads: Loads) -> None:
        """Record a reading of the counters of all models."""
        now = self._context.clock.now()
        for name, counted in loads.counted.items():
            before = self._loads.counted.get(name)
            if before is not None and counted.follows(before) and counted.work > before.work:
                self._moved[name] = now
        self._loads = loads

    async def hold(self, described: ModelDescription, stall: float, refused: bool) -> HeldUp:
        """For how long neighbours may hold up a canary. Ignores those that cannot be described."""
        if not has_neighbours(described):
            return NOT_HELD
        others = sorted(set(self._loads.counted) - {described.name})
        found = await asyncio.gather(*map(self._describe, others))
        neighbours = {each.name: self._neighbour(each) for each in found if each is not None}
        since = self._context.clock.now() - stall
        return held(described, neighbours, since, stall, refused)

    def _neighbour(self, described: ModelDescription) -> Neighbour:
        moved = self._moved.get(described.name)
        return Neighbour(described, moved, self._last_client_work(described.name, moved))

    async def _describe(self, name: str) -> ModelDescription | None:
        number = self._loads.number(name)
        known = self._described.get(name)
        if known is not None and known[0] == number:
            return known[1]
        try:
            found = await self._context.triton.describe(
                name, self._context.rules.value.model_timeout
            )
        except SidecarError:
            return None
        self._described[name] = number, found
        return found
