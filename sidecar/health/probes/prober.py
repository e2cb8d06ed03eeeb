"""The prober: all probes of one Triton, wired together.

Each layer has its own loop, so a slow layer delays no other. A layer is probed only while the
layers before it answer. Each model has at most one canary in flight; a late one is not abandoned
but watched, because its answer says more than a second late canary would.

Acts: asyncio.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sidecar.events import Hook, ProbingLimited, RequestFailed
from sidecar.health.assessment import Assessment
from sidecar.health.canary.definition import Canary
from sidecar.health.canary.derive import TIMEOUT as DERIVED_TIMEOUT
from sidecar.health.canary.derived_canary import ProvenByModel
from sidecar.health.canary.examine import Examined, examine_all
from sidecar.health.decision import Key
from sidecar.health.probes.model_probe import ModelProbe, SharedProbes
from sidecar.health.probes.neighbour_probe import NeighbourProbe
from sidecar.health.probes.server_probe import ProbeContext, ServerProbe
from sidecar.health.probes.stub_probe import StubProbe
from sidecar.health.progress import (
    Counted,
    Loads,
    after_reading,
    by_name,
    progress_finding,
    traffic_finding,
)
from sidecar.health.rules import ProbeRules
from sidecar.health.track import STALE
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import NotAdmitted, SidecarError
from sidecar.runtime.latest import Latest, first_of
from sidecar.triton.api import ModelDescription, TritonApi
from sidecar.triton.python_stubs_api import StubsApi
from sidecar.verdict.evidence import SERVER, Finding, Layer

Loop = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class ProbedTriton:
    """The Triton to probe: its client, the served models, and its stub processes where visible."""

    client: TritonApi
    models: Sequence[str]
    stubs: StubsApi | None = None


@dataclass(frozen=True, slots=True)
class EarlierState:
    """What an earlier sidecar next to the same Triton saved."""

    loads: Loads = field(default_factory=Loads)
    proven: ProvenByModel = field(default_factory=dict)


_NO_STATE = EarlierState()


@dataclass(frozen=True, slots=True)
class TritonIdentity:
    """What is served: Triton's version and its descriptions of the models."""

    triton_version: str = ""
    models: tuple[ModelDescription, ...] = ()


class Prober:
    """Probes one Triton while its `loops` run.

    `assessment` holds the verdict, `identity` what is served, and `loads` which load of its models
    Triton is at, starting from the `earlier` state.
    """

    def __init__(
        self,
        target: ProbedTriton,
        canaries: Iterable[Canary],
        rules: ProbeRules,
        clock: Clock,
        hook: Hook,
        earlier: EarlierState = _NO_STATE,
    ) -> None:
        self.identity: Latest[TritonIdentity] = Latest(TritonIdentity())
        self.loads: Latest[Loads] = Latest(earlier.loads)
        self._counted = earlier.loads
        self._rules = Latest(rules)
        self.assessment = Assessment(target.models, self._rules, clock, hook)
        self._context = ProbeContext(
            target.client, len(target.models), self.assessment, self._rules, clock, hook
        )
        self._server = ServerProbe(self._context, target.models)
        self._stubs = StubProbe(target.stubs, self._context)
        self._neighbours = NeighbourProbe(self._context, self._last_client_work)
        shared = SharedProbes(
            context=self._context,
            server=self._server,
            stubs=self._stubs,
            neighbours=self._neighbours,
            turn=self._turn,
            read_statistics=self._read_statistics,
        )
        self._models = {
            name: ModelProbe(name, shared, earlier.proven.get(name))
            for name in sorted(target.models)
        }
        self._next_turn = clock.now()
        self._reading = asyncio.Lock()
        self.configure(canaries, rules)

    def configure(self, canaries: Iterable[Canary], rules: ProbeRules) -> None:
        """Probe with these from the next probe on. A canary in flight keeps its own rules."""
        by_model = {canary.model: canary for canary in canaries}
        for name, model in self._models.items():
            model.canary.given = by_model.get(name)
        self._rules.set(rules)
        self._rate = rules.rate(len(self._models))
        self._next_turn = min(self._next_turn, self._context.clock.now() + 1 / self._rate)
        self.assessment.expect(self._bounds(rules))
        self._context.hook(ProbingLimited(self._rate))

    async def examine(self) -> list[Examined]:
        """Send every model's canary once, now."""
        canaries = {name: model.canary for name, model in self._models.items()}
        given = [canary.given for canary in canaries.values() if canary.given]
        derived = {name: each.derived for name, each in canaries.items() if each.given is None}
        return await examine_all(self._context.triton, given, derived)

    @property
    def proven(self) -> ProvenByModel:
        """What each model's derived canary has proven, in this process or an earlier one."""
        found = ((name, model.canary.derived.proven) for name, model in self._models.items())
        return {name: proven for name, proven in found if proven}

    @property
    def counted(self) -> Mapping[str, Counted]:
        """Each model's counters as of the last reading; those in `loads` may be older."""
        return self._counted.counted

    def forget_identity(self) -> None:
        """Forget what is served, as after models were unloaded; the probes find it out again."""
        for model in self._models.values():
            model.forget()
        self.identity.set(TritonIdentity())

    def loops(self) -> dict[str, Loop]:
        """The loops by name; each runs until cancelled."""
        found: dict[str, Loop] = {
            "probe the server": self._server.run,
            "read the statistics": self._poll_statistics,
            "identify what is served": self._identify,
            "let time pass": self._tick,
        }
        if self._stubs.possible:
            found["watch the stubs"] = self._watch_stubs
        for name, model in self._models.items():
            found[f"watch {name}"] = model.watch
            found[f"ask {name}"] = model.send_canaries
        return found

    def _bounds(self, rules: ProbeRules) -> dict[Key, float]:
        """For how many seconds each layer's evidence counts without another finding.

        `STALE` times the longest time between two findings.
        """
        every, timeout = rules.every, rules.server_timeout
        server = every.server + rules.port_timeout + 3 * timeout
        statistics = every.statistics + 2 * timeout  # a reading may wait for another one first
        found = {(layer, SERVER): server for layer in (Layer.PORT, Layer.LIVE, Layer.READY)}
        for name, model in self._models.items():
            given = model.canary.given
            patience = given.timeout if given else DERIVED_TIMEOUT
            turn = len(self._models) / self._rate
            found |= {
                # A failing probe requests a probe of the server first.
                (Layer.MODEL, name): every.model + 3 * rules.model_timeout + server,
                (Layer.CANARY, name): every.canary_floor + turn + patience + timeout + server,
                (Layer.PROGRESS, name): statistics,
                (Layer.TRAFFIC, name): statistics,
            }
        return {key: STALE * seconds for key, seconds in found.items()}

    async def _tick(self) -> None:
        """Re-assess periodically, so that the verdict follows the clock without new findings."""
        while True:
            await self._context.clock.sleep(self._rules.value.beat)
            self.assessment.observe()

    async def _turn(self) -> None:
        """Wait until another canary may be sent within the rate limit of all models together."""
        clock = self._context.clock
        seen = None
        while seen != self._rules.version:  # a new rate means new turns
            seen = self._rules.version
            turn = max(clock.now(), self._next_turn)
            self._next_turn = turn + 1 / self._rate
            if turn > clock.now():
                await first_of(clock, turn - clock.now(), self._rules.changed(seen))

    async def _watch_stubs(self) -> None:
        """Check every model when a stub has ended: a model may depend on another model's stub."""
        async for ends in self._stubs.ends():
            for model in self._models.values():
                if ends:
                    model.check_now()

    async def _poll_statistics(self) -> None:
        """Read Triton's counters of all models periodically while the server answers."""
        while True:
            if not self._server.answers.value:
                await self._server.answers.changed(self._server.answers.version)
                continue
            await self._read_statistics()
            await self._context.pause((), "", self._rules.value.every.statistics)

    async def _read_statistics(self) -> None:
        """Read Triton's counters once. One reading at a time, or they could arrive out of order."""
        rules, now, refusal = self._rules.value, self._context.clock.now, ""
        async with self._reading:
            try:
                statistics = by_name(await self._context.triton.statistics(rules.server_timeout))
            except SidecarError as error:
                statistics = {}  # every model's finding reports it
                if isinstance(error, NotAdmitted):  # the operator has to fix a setting
                    refusal = str(error)
                    self._context.hook(RequestFailed("triton", "statistics", error))
            else:
                self._counted = self._counted.after(statistics)
                self._neighbours.note(self._counted)
            self._counted = replace(self._counted, restarts=self.assessment.restarts.value)
            self.loads.set(self._counted)
        findings: list[Finding] = []
        for name, model in self._models.items():
            canary = model.canary
            counted = Counted.of(statistics.get(name, ()), canary.version)
            canary.progress = after_reading(canary.progress, counted, now(), rules.every.statistics)
            budget, failing = canary.traffic_budget, rules.traffic_failing
            findings += (
                progress_finding(name, canary.progress, refusal),
                traffic_finding(name, canary.progress, budget, failing),
            )
        self.assessment.observe(*findings)

    def _last_client_work(self, name: str, moved: float | None) -> float | None:
        """When a model last did work for clients; without a canary, when it last `moved` at all."""
        model = self._models.get(name)
        return model.canary.progress.others if model else moved

    async def _identify(self) -> None:
        """Set `identity` whenever all models are described and one of them has changed."""
        cells = [model.described for model in self._models.values()]
        while True:
            seen = [cell.version for cell in cells]
            done = await self._update_identity(cells)
            wakeups = (cell.changed(version) for cell, version in zip(cells, seen, strict=True))
            pause = None if done else self._rules.value.interval
            await first_of(self._context.clock, pause, *wakeups)

    async def _update_identity(self, described: Sequence[Latest[ModelDescription | None]]) -> bool:
        """Set `identity` if it has changed; gives False if it has to be tried again."""
        seen = [cell.version for cell in described]
        known = tuple(cell.value for cell in described if cell.value is not None)
        if len(known) < len(described) or known == self.identity.value.models:
            return True
        try:
            version = await self._context.triton.server_version(self._rules.value.server_timeout)
        except SidecarError:
            return False
        if seen == [cell.version for cell in described]:  # else the next turn takes the new ones
            self.identity.set(TritonIdentity(version, known))
        return True
