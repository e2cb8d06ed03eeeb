"""The probes of one Triton, wired together.

Each layer has a loop of its own, so that a slow one delays no other. A layer is asked only while
those before it answer. Of each model at most one canary is in flight; one that is late is not
abandoned but watched, for its answer tells more than the lateness of another one.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from sidecar.events import Hook, ProbingLimited, RequestFailed
from sidecar.health.assessment import Assessment
from sidecar.health.canary.definition import Canary
from sidecar.health.canary.derive import TIMEOUT as DERIVED_TIMEOUT
from sidecar.health.canary.derived_canary import Provens
from sidecar.health.canary.examine import Examined, examine_all
from sidecar.health.decision import Key
from sidecar.health.probes.model_probe import ModelProbe
from sidecar.health.probes.neighbour_probe import NeighbourProbe
from sidecar.health.probes.server_probe import ProbeContext, ServerProbe
from sidecar.health.probes.stub_probe import StubProbe
from sidecar.health.progress import (
    Counted,
    Loads,
    by_name,
    look,
    progress_finding,
    traffic_finding,
)
from sidecar.health.rules import ProbeRules
from sidecar.health.track import STALE
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import NotAdmitted, SidecarError
from sidecar.runtime.latest import Latest, first_of
from sidecar.triton.api import ModelDescription, TritonApi
from sidecar.triton.stubs_api import StubsApi
from sidecar.verdict.evidence import SERVER, Finding, Layer

Loop = Callable[[], Coroutine[Any, Any, None]]
_FIRST = Loads()


@dataclass(frozen=True, slots=True)
class TritonIdentity:
    """What is served: Triton's version and the models as it describes them."""

    triton_version: str = ""
    models: tuple[ModelDescription, ...] = ()


class Prober:
    """Probes while its `loops` run; `assessment` has the verdict, `identity` what is served.

    `stubs` shows the processes that run models, where they can be seen. `loads` tells which load of
    its models Triton is at; it begins with what is given. So does what derived canaries have
    `proven`.
    """

    def __init__(
        self,
        triton: TritonApi,
        models: Sequence[str],
        canaries: Iterable[Canary],
        rules: ProbeRules,
        clock: Clock,
        hook: Hook,
        loads: Loads = _FIRST,
        stubs: StubsApi | None = None,
        proven: Provens = MappingProxyType({}),
    ) -> None:
        self.identity: Latest[TritonIdentity] = Latest(TritonIdentity())
        self.loads: Latest[Loads] = Latest(loads)
        self._counted = loads
        self._rules = Latest(rules)
        self.assessment = Assessment(models, self._rules, clock, hook)
        self._means = ProbeContext(triton, self.assessment, self._rules, clock, hook)
        self._server = ServerProbe(self._means, models)
        self._stubs = StubProbe(stubs, self._means)
        self._neighbours = NeighbourProbe(self._means, self._clients_seen)
        shared = (
            *(self._server, self._means, self._turn, self._read, self._stubs),
            self._neighbours,
        )
        self._models = {
            name: ModelProbe(name, *shared, proven.get(name)) for name in sorted(models)
        }
        self._next_turn = clock.now()
        self._reading = asyncio.Lock()
        self.configure(canaries, rules)

    def configure(self, canaries: Iterable[Canary], rules: ProbeRules) -> None:
        """Probe with these from the next look on; a canary that is out keeps those it has."""
        by_model = {canary.model: canary for canary in canaries}
        for name, model in self._models.items():
            model.canary.given = by_model.get(name)
        self._rules.set(rules)
        self._rate = rules.rate(len(self._models))
        self._next_turn = min(self._next_turn, self._means.clock.now() + 1 / self._rate)
        self.assessment.expect(self._bounds(rules))
        self._means.hook(ProbingLimited(self._rate))

    async def examine(self) -> list[Examined]:
        """Ask every model once, now, the canary that it is probed with."""
        canaries = {name: model.canary for name, model in self._models.items()}
        given = [canary.given for canary in canaries.values() if canary.given]
        derived = {name: each.derived for name, each in canaries.items() if each.given is None}
        return await examine_all(self._means.triton, given, derived)

    @property
    def proven(self) -> Provens:
        """What the derived canary of each model has proven, now or before our time."""
        found = ((name, model.canary.derived.proven) for name, model in self._models.items())
        return {name: proven for name, proven in found if proven}

    @property
    def counted(self) -> Mapping[str, Counted]:
        """The counters of each model as Triton told them last; those in `loads` may be older."""
        return self._counted.counted

    def forget_identity(self) -> None:
        """Know nothing of what is served any more, as when models were unloaded.

        What is served all the same is found out anew.
        """
        for model in self._models.values():
            model.forget()
        self.identity.set(TritonIdentity())

    def loops(self) -> dict[str, Loop]:
        """The loops by name; each runs until it is cancelled."""
        found: dict[str, Loop] = {
            "probe the server": self._server.run,
            "read the statistics": self._count,
            "identify what is served": self._identify,
            "let time pass": self._let_time_pass,
        }
        if self._stubs.possible:
            found["watch the stubs"] = self._watch_stubs
        for name, model in self._models.items():
            found[f"watch {name}"] = model.watch
            found[f"ask {name}"] = model.ask
        return found

    def _bounds(self, rules: ProbeRules) -> dict[Key, float]:
        """For how many seconds what each layer has proven counts without another finding.

        Ten times as long as it takes at most from one finding to the next.
        """
        every, timeout = rules.every, rules.server_timeout
        server = every.server + rules.port_timeout + 3 * timeout
        statistics = every.statistics + 2 * timeout  # a reading may wait for another one
        found = {(layer, SERVER): server for layer in (Layer.PORT, Layer.LIVE, Layer.READY)}
        for name, model in self._models.items():
            given = model.canary.given
            patience = given.timeout if given else DERIVED_TIMEOUT
            turn = len(self._models) / self._rate
            found |= {
                # What fails asks for a look at the server first.
                (Layer.MODEL, name): every.model + 3 * rules.model_timeout + server,
                (Layer.CANARY, name): every.canary_floor + turn + patience + timeout + server,
                (Layer.PROGRESS, name): statistics,
                (Layer.TRAFFIC, name): statistics,
            }
        return {key: STALE * seconds for key, seconds in found.items()}

    async def _let_time_pass(self) -> None:
        """Have a verdict that goes by the time, for ever, whether or not anything is found out."""
        while True:
            await self._means.clock.sleep(self._rules.value.beat)
            self.assessment.observe()

    async def _turn(self) -> None:
        """Wait until another canary may be sent, so that all together keep to their rate."""
        clock = self._means.clock
        seen = None
        while seen != self._rules.version:  # a new rate makes new turns
            seen = self._rules.version
            turn = max(clock.now(), self._next_turn)
            self._next_turn = turn + 1 / self._rate
            if turn > clock.now():
                await first_of(clock, turn - clock.now(), self._rules.changed(seen))

    async def _watch_stubs(self) -> None:
        """Have every model looked at when a stub has ended; it may need one of another model."""
        async for ends in self._stubs.ends():
            for model in self._models.values():
                if ends:
                    model.doubt()

    async def _count(self) -> None:
        """Read Triton's counters of all models for ever, while the server answers."""
        while True:
            if not self._server.answers.value:
                await self._server.answers.changed(self._server.answers.version)
                continue
            await self._read()
            await self._means.pause((), "", self._rules.value.every.statistics)

    async def _read(self) -> None:
        """Read Triton's counters once; one reading at a time, or they might come out of order."""
        rules, now, refusal = self._rules.value, self._means.clock.now, ""
        async with self._reading:
            try:
                told = by_name(await self._means.triton.statistics(rules.server_timeout))
            except SidecarError as error:
                told = {}  # which every model's finding says
                if isinstance(error, NotAdmitted):  # and it is a setting that has to be mended
                    refusal = str(error)
                    self._means.hook(RequestFailed("triton", "statistics", error))
            else:
                self._counted = self._counted.after(told)
                self._neighbours.note(self._counted)
            self._counted = replace(self._counted, restarts=self.assessment.restarts.value)
            self.loads.set(self._counted)
        findings: list[Finding] = []
        for name, model in self._models.items():
            canary = model.canary
            counted = Counted.of(told.get(name, ()), canary.version)
            canary.progress = look(canary.progress, counted, now(), rules.every.statistics)
            budget, failing = canary.traffic_budget, rules.traffic_failing
            findings += (
                progress_finding(name, canary.progress, refusal),
                traffic_finding(name, canary.progress, budget, failing),
            )
        self.assessment.observe(*findings)

    def _clients_seen(self, name: str, moved: float | None) -> float | None:
        """When work of clients was seen last of a model that `moved`; all of it, if we ask none."""
        model = self._models.get(name)
        return model.canary.progress.others if model else moved

    async def _identify(self) -> None:
        """Note what is served whenever every model is described and one is another than before."""
        cells = [model.described for model in self._models.values()]
        while True:
            seen = [cell.version for cell in cells]
            told = await self._note(cells)
            news = (cell.changed(version) for cell, version in zip(cells, seen, strict=True))
            pause = None if told else self._rules.value.interval
            await first_of(self._means.clock, pause, *news)

    async def _note(self, described: Sequence[Latest[ModelDescription | None]]) -> bool:
        """Whether there was nothing more to note."""
        seen = [cell.version for cell in described]
        known = tuple(cell.value for cell in described if cell.value is not None)
        if len(known) < len(described) or known == self.identity.value.models:
            return True
        try:
            version = await self._means.triton.server_version(self._rules.value.server_timeout)
        except SidecarError:
            return False
        if seen == [cell.version for cell in described]:  # else it is over, and there is news
            self.identity.set(TritonIdentity(version, known))
        return True
