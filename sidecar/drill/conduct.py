"""Conducts one run of a scenario: steady state, injection, effect, restoration, steady state.

    steady ── load ── injected ── effect ── (lasts) ── restored ── steady ── recovered

Whatever happens after the injection, the fault is removed: it lasts only as long as a context, and
a guard outside this process removes it if this process cannot.

Acts: asyncio.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from sidecar.drill import stop_conditions
from sidecar.drill.live.precheck import DrillRefused
from sidecar.drill.load.process import RunningLoad
from sidecar.drill.load.spec import LoadSpec, OpenLoop
from sidecar.drill.measurement import measure
from sidecar.drill.objectives import Objectives
from sidecar.drill.record import Figures, Run, Status, Violation
from sidecar.drill.samples import Kind, Mark
from sidecar.drill.scenario import Need, Scenario, Violated
from sidecar.drill.stage.api import Stage
from sidecar.drill.stage.observation import Observation
from sidecar.drill.stage.waiting import until
from sidecar.drill.stop_conditions import Bounds, Stop
from sidecar.drill.violations import violations
from sidecar.injection.rules import Code
from sidecar.runtime.errors import SidecarError, Unavailable

_EFFECT = 90.0  # seconds until a fault must show; a lapsed session takes the longest
_LOOK = 0.1
_ANSWERS = 20  # for each kind of client, before and after a fault

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Conditions:
    """What is common to all runs of a command. `tell` is called with each step, for people."""

    load: LoadSpec
    seed: int
    tell: Tell = lambda step: None
    bounds: Bounds = field(default_factory=Bounds)


async def conduct(
    stage: Stage,
    scenario: Scenario[Any],
    objectives: Objectives,
    conditions: Conditions,
    number: int,
) -> Run:
    """Run a scenario once; `number` counts its runs from 1.

    From the injection on, nothing is an error: what the mesh cannot do any more ends the run, which
    has what was seen until then.

    Raises:
        SidecarError: before the injection: the mesh has no steady state, or the load died.
    """
    if lacking := scenario.needs - stage.offers:
        return _skipped(scenario, number, _needs(stage, lacking))
    conditions.tell("waiting for the steady state")
    await stage.steady()
    async with stage.observed() as seen:
        loaded = stage.loaded(
            conditions.load,
            began=seen.began,
            seed=conditions.seed + number,
            cached="cache" in scenario.needs,
        )
        attempt: _Attempt | None = None
        try:
            async with loaded as running:
                attempt = _Attempt(stage, scenario, objectives, conditions, seen, running)
                await attempt.play()
        except SidecarError as error:
            if attempt is None or attempt.injected is None:
                raise
            attempt.ends("not_measured", error)
        return attempt.run(number)


class _Attempt:
    """One run in progress."""

    def __init__(
        self,
        stage: Stage,
        scenario: Scenario[Any],
        objectives: Objectives,
        conditions: Conditions,
        seen: Observation,
        running: RunningLoad,
    ) -> None:
        self.stage, self.scenario, self.objectives = stage, scenario, objectives
        self.conditions, self.seen, self.running = conditions, seen, running
        self.victim, self.primary = "", ""
        self.undisturbed = 0.0
        self.injected: Mark | None = None
        self.removing = False
        self.violated: tuple[Violation, ...] = ()
        self.stopped: Stop | None = None
        self.retries: int | None = None

    async def play(self) -> None:
        """All of it; what comes of it is in the attributes."""
        await self._settle()
        before = await self.stage.retries()
        self.stopped = stop_conditions.before_injection(self.victim, await self.stage.healthy())
        if self.stopped or not await self._fault():
            return
        await self._recover()
        after = await self.stage.retries()
        self.retries = None if after is None or before is None else after - before

    async def _settle(self) -> None:
        """Undisturbed load; then choose the victim."""
        await self._answers()
        self.conditions.tell(f"undisturbed load for {self.scenario.settles:g} s")
        self.undisturbed = self.seen.elapsed
        await asyncio.sleep(self.scenario.settles)
        self.primary = await self.stage.primary()
        self.victim = await self._choose()

    async def _fault(self) -> bool:
        """Inject the fault and remove it; False if it was refused, so that nothing has happened."""
        try:
            await self._until_stopped(self._inject())
        except DrillRefused as error:
            self._refused(error)
            return False
        except Violated as error:
            self.violated = (error.violation,)
            self.seen.mark("restored", self.victim)
        except SidecarError as error:
            broken = "removal_failed" if self.removing else "injection_failed"
            self.ends(getattr(error, "code", broken), error)
        else:
            self.seen.mark("restored", self.victim)
        return True

    async def _recover(self) -> None:
        """Wait until all is as before, and let requests flow again."""
        self.conditions.tell("waiting until all is as before")
        try:
            await self.stage.steady(self.objectives.recovered)
            self.seen.mark("recovered")
        except DrillRefused as error:
            self.ends(error.code, error)
        except Unavailable:  # then the mark is missing, which is a violation
            pass
        await self._answers()
        await asyncio.sleep(self.scenario.settles)

    def ends(self, code: str, error: SidecarError) -> None:
        """The run ended by an error; what ended it before stays the reason."""
        self.stopped = self.stopped or Stop(code, str(error))

    def _refused(self, error: DrillRefused) -> None:
        """Nothing was injected after all."""
        if self.injected:
            self.seen.added.remove(self.injected)
        self.injected, self.stopped = None, Stop(error.code, str(error))

    async def _choose(self) -> str:
        if self.scenario.victim == "mesh":
            return ""
        if self.scenario.victim == "standby":
            return await self.stage.standby()
        return self.primary

    async def _inject(self) -> None:
        tell, scenario = self.conditions.tell, self.scenario
        tell(f"injecting: {scenario.title}{f' ({self.victim})' if self.victim else ''}")
        self.injected = self.seen.mark("injected", self.victim, scenario.name)
        async with scenario.inject(self.stage, self.victim) as ago:
            if ago is not None:
                self._was_ordered(self.injected, self.seen.elapsed - ago)
            with suppress(Unavailable):  # no effect: the measurement says what was expected
                await until(self._shows, "the effect", patience=_EFFECT)
            await asyncio.sleep(scenario.lasts)
            tell("restoring")
            self.removing = True

    def _was_ordered(self, ordered: Mark, caused: float) -> None:
        """The fault was only ordered when it was marked; it was caused at that moment."""
        self.seen.added.remove(ordered)
        self.seen.add(replace(ordered, event="ordered"))
        self.injected = self.seen.add(replace(ordered, at=max(ordered.at, caused)))

    def _shows(self) -> bool:
        """Whether the fault has had the effect that it must have."""
        expects, since = self.scenario.expects, self.injected.at if self.injected else 0.0
        taken = (mark.instance != self.primary for mark in self.seen.since(since, "primary"))
        if expects.moves_role and not any(taken):
            return False
        verdicts = self.seen.since(since, "verdict")
        named = {mark.reason for mark in verdicts if mark.instance == self.victim}
        return not expects.reasons or bool(named & expects.reasons)

    async def _until_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it, unless a stop condition ends it, which removes the fault as well."""
        doing = asyncio.create_task(work)
        try:
            while not doing.done() and self.stopped is None:
                await asyncio.wait((doing,), timeout=_LOOK)
                self.stopped = self._stop_condition()
        finally:  # also if this is cancelled: only then is the fault removed
            if not doing.done():
                self.removing = True
                doing.cancel()
                await asyncio.wait((doing,))
        if self.stopped:
            self.seen.mark("aborted", reason=self.stopped.code)
        with suppress(asyncio.CancelledError):
            doing.result()

    def _stop_condition(self) -> Stop | None:
        try:
            self.running.check()
        except SidecarError as error:
            return Stop("load_failed", str(error))
        if self.injected is None:
            return None
        return stop_conditions.while_running(
            self.running.samples,
            self.seen.elapsed,
            self.injected.at,
            self.conditions.bounds,
            self.running.counts.in_flight,
        )

    async def _answers(self) -> None:
        """Wait until each kind of client has some more answers.

        Raises:
            Unavailable: they have none.
        """
        start, least = len(self.running.samples), _least(self.conditions.load)

        def enough() -> bool:
            self.running.check()
            new = self.running.samples[start:]
            got = Counter(each.kind for each in new if each.outcome == "answered")
            return got >= least

        await until(enough, "answers for all clients")

    def run(self, number: int) -> Run:
        """The run as it is recorded."""
        scenario = self.scenario
        # What was seen first is the state to begin with, not a change.
        marks = tuple(mark for mark in self.seen.marks if mark.at >= self.undisturbed)
        figures, found = self._judged(marks)
        return Run(
            scenario.name,
            scenario.title,
            scenario.hypothesis,
            number,
            self.victim,
            self._status(found),
            self.stopped.code if self.stopped else "",
            self.stopped.reason if self.stopped else "",
            figures,
            found,
            marks,
            tuple(self.running.samples),
        )

    def _judged(self, marks: Sequence[Mark]) -> tuple[Figures, tuple[Violation, ...]]:
        """What it cost, and what did not hold."""
        injected = self.injected.at if self.injected else self.seen.elapsed
        figures = measure(
            self.running.samples,
            marks,
            injected=injected,
            victim=self.victim,
            primary=self.primary,
            objectives=self.objectives,
            retried=self.retries,
        )
        if self.injected is None:  # then nothing had to hold
            return figures, ()
        found = violations(
            figures,
            self.scenario.expects,
            self.objectives,
            marks,
            injected=injected,
            victim=self.victim,
        )
        return figures, self.violated + found

    def _status(self, found: Sequence[Violation]) -> Status:
        if self.stopped:
            return "skipped" if self.stopped.code == Code.NOT_PERMITTED else "aborted"
        return "failed" if found else "passed"


def _least(load: LoadSpec) -> Counter[Kind]:
    """The answers of each kind that show that requests flow."""
    unary = isinstance(load, OpenLoop) or load.clients
    return Counter({"unary": _ANSWERS if unary else 0, "stream": 1 if load.streams else 0})


def _needs(stage: Stage, lacking: frozenset[Need]) -> str:
    """What a scenario needs and a stage does not offer, and why, as far as that is known."""
    named = (
        f"{need} ({stage.lacking[need]})" if need in stage.lacking else need for need in lacking
    )
    return f"needs {', '.join(sorted(named))}"


def _skipped(scenario: Scenario[Any], number: int, reason: str) -> Run:
    return Run(
        scenario.name, scenario.title, scenario.hypothesis, number, "", "skipped", "needs", reason
    )
