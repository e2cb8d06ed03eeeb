"""Looks at one model: whether it is ready, and what it answers to its canary."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from sidecar.clock import Clock
from sidecar.errors import AnswerTooLarge, DeadlineExceeded, SidecarError, Unavailable
from sidecar.events import CanaryDerived, CanarySent, Hook
from sidecar.health.assessment import Assessment
from sidecar.health.canary import Canary, misfit
from sidecar.health.derive import advice
from sidecar.health.derived import DerivedCanary
from sidecar.health.evidence import Finding, Layer, Reason
from sidecar.health.expectations import judge
from sidecar.health.probe_server import ServerProbe, ask
from sidecar.health.progress import (
    Pace,
    Progress,
    Traffic,
    answered,
    unanswered,
)
from sidecar.latest import Latest, first_of
from sidecar.settings.health import HealthSettings
from sidecar.triton_api import Answer, ModelDescription, TritonApi

_PATIENCE = 4  # stall windows after which a canary without an answer is given up


class ModelProbe:
    """Its loops run until they are cancelled. `described` is the model while it is ready.

    `progress` is set by whoever reads Triton's counters. Without a canary, the model is asked one
    that is derived from its description.
    """

    def __init__(
        self,
        model: str,
        server: ServerProbe,
        triton: TritonApi,
        assessment: Assessment,
        settings: Latest[HealthSettings],
        turn: Callable[[], Awaitable[None]],
        clock: Clock,
        hook: Hook,
    ) -> None:
        self.canary: Canary | None = None
        self.described: Latest[ModelDescription | None] = Latest(None)
        self.progress = Progress()
        self._own = Traffic()
        self._derived = DerivedCanary()
        self._advised = False
        self._model = model
        self._server = server
        self._triton = triton
        self._assessment = assessment
        self._settings = settings
        self._turn = turn
        self._clock = clock
        self._hook = hook

    @property
    def traffic_budget(self) -> float | None:
        """Mean seconds above which the requests of clients are slow; None where that says nothing.

        Of models that stream Triton counts only the time until their work begins.
        """
        streams = self.described.value is None or self.described.value.decoupled
        return None if streams or self.canary is None else self.canary.budgets.traffic

    def taken(self) -> Traffic:
        """What became of the canaries since this was asked last."""
        own, self._own = self._own, Traffic()
        return own

    # --- ready --------------------------------------------------------------------------------

    async def watch(self) -> None:
        """See for ever whether the model is ready, while the server answers."""
        while True:
            seen = await _true(self._server.answers)
            finding, described = await self._look()
            if finding.ok or await self._server.still_answers():
                self._assessment.observe(finding)
                self.described.set(described)
                pause = self._pause(Layer.MODEL, self._settings.value.every.model)
                await first_of(self._clock, pause, self._server.answers.changed(seen))
            if not self._server.answers.value:
                self.described.set(None)  # it may be another model when the server is back

    async def _look(self) -> tuple[Finding, ModelDescription | None]:
        name, triton, timeout = self._model, self._triton, self._settings.value.model_timeout
        found = await ask(Layer.MODEL, name, lambda: triton.model_ready(name, timeout), self._clock)
        if not found.ok:
            return found, None
        wanted = self.canary.version if self.canary else ""
        try:
            described = self.described.value or await triton.describe(name, timeout)
            if wanted and not await triton.model_ready(name, timeout, wanted):
                described = await triton.describe(name, timeout)
                loaded = ", ".join(described.versions)
                detail = f"{name}: expected version {wanted}, loaded is {loaded}"
                return replace(found, reason=Reason.MODEL_WRONG_VERSION, detail=detail), None
        except SidecarError as error:
            detail = f"{name}: {error}"
            return replace(found, reason=Reason.MODEL_UNANSWERED, detail=detail), None
        return found, described

    # --- canary -------------------------------------------------------------------------------

    async def ask(self) -> None:
        """Send one canary after the other for ever, while the model is ready."""
        while True:
            described = self.described.value
            if described is None:
                await self.described.changed(self.described.version)
                continue
            await self._turn()
            await self._round(described)
            settings = self._settings.value
            pace = Pace(settings.every.canary, settings.every.canary_floor, settings.fast_interval)
            settled = self._assessment.settled(Layer.CANARY, subject=self._model)
            pause = pace.pause(settled=settled, traffic=self.progress.traffic)
            await self._clock.sleep(self._clock.jitter(pause, 0.1))

    def _pause(self, layer: Layer, interval: float) -> float:
        settled = self._assessment.settled(layer, subject=self._model)
        return self._clock.jitter(interval if settled else self._settings.value.fast_interval, 0.1)

    async def _round(self, described: ModelDescription) -> None:
        """Send a canary and watch it until it is answered, or nobody can be asked any more."""
        canary = self.canary or self._derived.of(described)
        fault = canary if isinstance(canary, str) else misfit(canary, described)
        if isinstance(canary, str) or fault:
            detail = f"{self._model}: {fault}"
            self._assessment.observe(Finding(Layer.CANARY, self._model, Reason.CONFIG, detail))
            return
        if canary.derived and not self._advised:
            self._advised = True
            self._hook(CanaryDerived(self._model, advice(self._model)))
        self._hook(CanarySent(self._model))
        began = self._clock.now()
        asking = asyncio.ensure_future(self._infer(canary, described, began))
        try:
            late = began + canary.timeout
            while not asking.done():
                gone = self.described.changed(self.described.version)
                pause = max(late - self._clock.now(), 0.0)
                await first_of(self._clock, pause, asyncio.shield(asking), gone)
                if self.described.value is None:
                    return
                if not asking.done() and self._clock.now() >= late:
                    self._assessment.observe(self._late(canary, began))
                    pause = self._pause(Layer.CANARY, self._settings.value.every.canary)
                    late = self._clock.now() + pause
            if finding := asking.result():
                remark = "derived canary" if canary.derived else ""
                self._assessment.observe(replace(finding, remark=remark))
        finally:
            asking.cancel()

    async def _infer(
        self, canary: Canary, described: ModelDescription, began: float
    ) -> Finding | None:
        """What a canary finds; None if it is the server that fails, which has been said."""
        patience = _PATIENCE * self._stall(canary) + canary.timeout
        try:
            answer = await self._triton.infer(canary.question(described), patience)
        except DeadlineExceeded:
            return self._late(canary, began)
        except SidecarError as error:
            self._own = replace(self._own, failures=self._own.failures + 1)
            return await self._failed(error, began)
        self._own = replace(
            self._own,
            successes=self._own.successes + len(canary.steps),
            seconds=self._own.seconds + answer.seconds,
            responses=self._own.responses + answer.responses * described.decoupled,
        )
        return self._judged(canary, answer, began)

    def _judged(self, canary: Canary, answer: Answer, began: float) -> Finding:
        if fault := judge(canary.expectations, answer):
            detail = f"{self._model}: {fault}"
            return Finding(
                Layer.CANARY, self._model, Reason.CANARY_WRONG_ANSWER, detail, answer.seconds
            )
        if canary.derived:
            self._derived.learn(answer)
        return answered(canary, answer, began, self.progress)

    async def _failed(self, error: SidecarError, began: float) -> Finding | None:
        name, progress = self._model, self.progress
        if isinstance(error, Unavailable) and not await self._server.still_answers():
            return None
        reason = Reason.CANARY_FAILED
        if isinstance(error, AnswerTooLarge):
            reason = Reason.CANARY_TOO_LARGE
        elif isinstance(error, Unavailable) and progress.recent(
            began, 2 * self._settings.value.every.statistics
        ):
            reason = Reason.MODEL_BUSY  # it refuses what its queue cannot hold
        return Finding(Layer.CANARY, name, reason, f"{name}: {error}", self._clock.now() - began)

    def _late(self, canary: Canary, began: float) -> Finding:
        return unanswered(
            self._model,
            began,
            canary.timeout,
            self._stall(canary),
            self.progress,
            self._clock.now(),
        )

    def _stall(self, canary: Canary) -> float:
        described, settings = self.described.value, self._settings.value
        if canary.stall is not None:
            return canary.stall
        blind = described and described.decoupled and not self.progress.sees_streams
        return settings.stream_stall if blind else settings.stall


async def _true(cell: Latest[bool]) -> int:
    """Wait until a cell holds True; gives the version of the value."""
    version, value = cell.version, cell.value
    while not value:
        version, value = await cell.changed(version)
    return version
