"""The probes of one Triton, wired together.

Each layer has a loop of its own, so that a slow one delays no other. A layer is asked only while
those before it answer. Of each model at most one canary is in flight; one that is late is not
given up but watched, for its answer tells more than the lateness of another one.
"""

import functools
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sidecar.clock import Clock
from sidecar.errors import SidecarError
from sidecar.events import Hook, ProbingLimited
from sidecar.health.assessment import Assessment
from sidecar.health.canary import Canary
from sidecar.health.probe_model import ModelProbe
from sidecar.health.probe_server import ServerProbe
from sidecar.health.progress import Counted, look, progress_finding, traffic_finding
from sidecar.latest import Latest
from sidecar.settings.health import HealthSettings
from sidecar.triton_api import ModelDescription, TritonApi

Loop = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Identity:
    """What is served: Triton's version and the models as it describes them."""

    triton_version: str = ""
    models: tuple[ModelDescription, ...] = ()


class Prober:
    """Probes while its `loops` run.

    `assessment` has the verdict, `identity` what is served; `restarts` counts those of Triton.
    """

    def __init__(
        self,
        triton: TritonApi,
        models: Sequence[str],
        canaries: Iterable[Canary],
        settings: HealthSettings,
        clock: Clock,
        hook: Hook,
    ) -> None:
        self.identity: Latest[Identity] = Latest(Identity())
        self._settings = Latest(settings)
        self.assessment = Assessment(models, self._settings, clock, hook)
        self._triton = triton
        self._clock = clock
        self._hook = hook
        self._server = ServerProbe(triton, self.assessment, self._settings, clock)
        self.restarts = self._server.restarts
        self._models = {
            name: ModelProbe(
                name,
                self._server,
                triton,
                self.assessment,
                self._settings,
                self._turn,
                clock,
                hook,
            )
            for name in sorted(models)
        }
        self._next_turn = clock.now()
        self.configure(canaries, settings)

    def configure(self, canaries: Iterable[Canary], settings: HealthSettings) -> None:
        """Probe with these from the next look on."""
        by_model = {canary.model: canary for canary in canaries}
        for name, model in self._models.items():
            model.canary = by_model.get(name)
        self._settings.set(settings)
        self._hook(ProbingLimited(settings.canary_rate))

    def loops(self) -> dict[str, Loop]:
        """The loops by name; each runs until it is cancelled."""
        found: dict[str, Loop] = {
            "probe the server": self._server.run,
            "read the statistics": self._count,
        }
        for name, model in self._models.items():
            found[f"watch {name}"] = model.watch
            found[f"ask {name}"] = model.ask
            found[f"identify {name}"] = functools.partial(self._identify, model)
        return found

    async def _turn(self) -> None:
        """Wait until another canary may be sent, so that all together keep to their rate."""
        now = self._clock.now()
        turn = max(now, self._next_turn)
        self._next_turn = turn + 1 / self._settings.value.canary_rate
        if turn > now:
            await self._clock.sleep(turn - now)

    async def _count(self) -> None:
        """Read Triton's counters of all models for ever, while the server answers."""
        while True:
            if not self._server.answers.value:
                await self._server.answers.changed(self._server.answers.version)
                continue
            settings = self._settings.value
            try:
                statistics = await self._triton.statistics(settings.server_timeout)
            except SidecarError:
                statistics = ()  # which every model's finding says
            for name, model in self._models.items():
                counted = Counted.of(name, statistics)
                model.progress = look(model.progress, counted, model.taken(), self._clock.now())
                budget = model.traffic_budget
                traffic = traffic_finding(
                    name, model.progress.traffic, budget, settings.traffic_failing
                )
                findings = (progress_finding(name, model.progress), traffic)
                self.assessment.observe(*(finding for finding in findings if finding))
            await self._clock.sleep(self._clock.jitter(settings.every.statistics, 0.1))

    async def _identify(self, model: ModelProbe) -> None:
        """Note what is served whenever every model is described and one is another than before."""
        async for _ in model.described:
            models = tuple(each.described.value for each in self._models.values())
            known = tuple(each for each in models if each is not None)
            if len(known) < len(models) or known == self.identity.value.models:
                continue
            try:
                version = await self._triton.server_version(self._settings.value.server_timeout)
            except SidecarError:
                continue  # the next look sees that the server is gone, and says so
            self.identity.set(Identity(version, known))
