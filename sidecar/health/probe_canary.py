"""Asks one model its canary, and tells what the answer, or its absence, means."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from sidecar.errors import (
    AnswerTooLarge,
    DeadlineExceeded,
    NotAdmitted,
    Overloaded,
    Rejected,
    SidecarError,
    Unavailable,
)
from sidecar.events import CanaryCached, CanaryDerived, CanarySent
from sidecar.health.canary import Canary, fault, misfit
from sidecar.health.derive import advice
from sidecar.health.derived import DerivedCanary, Proven
from sidecar.health.evidence import Finding, Layer, Level, Reason
from sidecar.health.probe_server import Means, ServerProbe
from sidecar.health.progress import Counted, Progress, answered, asking, pace, refused, unanswered
from sidecar.health.varied import NUMBERS, Taken, Variation
from sidecar.health.varied import advice as cache_advice
from sidecar.latest import Latest, first_of
from sidecar.threads import in_daemon_thread
from sidecar.triton_api import Answer, ModelDescription

_PATIENCE = 4  # stall windows after which a canary is given up although the model moves
_LARGE = 2**18  # bytes; what takes longer to judge must not hold up the loop


class CanaryProbe:
    """Asks one canary at a time: the one that was `given`, or one derived from the description.

    `described` is the model while it is ready; whoever waits for an answer gives up when it is not.
    `progress` is set by whoever reads Triton's counters, which `read` has done at once.
    """

    def __init__(
        self,
        model: str,
        server: ServerProbe,
        means: Means,
        read: Callable[[], Awaitable[None]],
        described: Latest[ModelDescription | None],
        proven: Proven | None = None,
    ) -> None:
        self.given: Canary | None = None
        self.derived = DerivedCanary(proven)
        self.progress = Progress()
        self._model = model
        self._server = server
        self._means = means
        self._read = read
        self._described = described
        self._advised = False
        self._waiting = False  # for the answer to a canary that was given up, or others are
        self._refused: float | None = None  # since when it has no room for canaries
        # The counters before the last canary that was answered, and how many requests that was.
        self._answered: tuple[Counted | None, int] = (None, 0)
        self._variation = Variation()
        self._cached = False  # whether the last answer came from Triton's cache
        self._told_of_cache = False

    @property
    def version(self) -> str:
        """The version that has to be loaded, empty for any."""
        return self.given.version if self.given else ""

    @property
    def traffic_budget(self) -> float | None:
        """Mean seconds above which the requests of clients are slow; None where that says nothing.

        Of models that stream Triton counts only the time until their work begins.
        """
        streams = self._described.value is None or self._described.value.decoupled
        return None if streams or self.given is None else self.given.budgets.traffic

    @property
    def interval(self) -> float:
        """Seconds from what was found last to the next canary."""
        settings = self._means.settings.value
        every = settings.every
        interval = pace(
            self.progress.traffic, every.canary, every.canary_floor, settings.fast_interval
        )
        if self._refused is not None:  # its queue may be empty meanwhile, which counts
            interval = min(interval, settings.stall / 2)
        return interval

    def reloaded(self) -> None:
        """Expect nothing of what another load of the model has answered."""
        self.derived.reloaded()
        self._variation = Variation()

    def choose(self, described: ModelDescription) -> tuple[Canary | None, str]:
        """The canary for a model that describes itself so, or why there is none."""
        canary = self.given or self.derived.of(described)
        if isinstance(canary, str):
            return None, canary
        why = misfit(canary, described)
        return (None, why) if why else (canary, "")

    async def ask(self, canary: Canary, described: ModelDescription) -> Finding | None:
        """What a canary finds; None if it was given up."""
        if canary.derived and not self._advised:
            self._advised = True
            self._means.hook(CanaryDerived(self._model, advice(self._model)))
        self._means.hook(CanarySent(self._model))
        self.progress = asking(self.progress, len(canary.steps), self._waiting)
        self._waiting = True
        finding = await self._watched(canary, described)
        self._waiting = finding is None or self._refused is not None
        return finding

    def observe(self, canary: Canary | None, finding: Finding) -> None:
        """Add what was found to the evidence, with what is to be known of the canary."""
        remarks = []
        if canary and canary.derived:
            finding = self.derived.excused(finding)
            remarks.append("derived canary")
        if self._cached and finding.ok:
            remarks.append("answered from the response cache: proves nothing of the model")
        self._means.assessment.observe(replace(finding, remark="; ".join(remarks)))

    async def _watched(self, canary: Canary, described: ModelDescription) -> Finding | None:
        """Send a canary, and tell that it is late until it is answered.

        None if nobody can be asked any more; and if the model hangs, after one more stall window,
        for an answer that was lost would keep the model down that works again.
        """
        clock, assessment = self._means.clock, self._means.assessment
        began = clock.now()
        asked = asyncio.ensure_future(self._infer(canary, described, began))
        next_look, given_up = began + canary.timeout, float("inf")
        try:
            while not asked.done():
                seen = self._described.version
                pause = max(next_look - clock.now(), 0.0)
                await first_of(clock, pause, asyncio.shield(asked), self._described.changed(seen))
                now = clock.now()
                if self._described.value is None or now >= given_up:
                    return None
                if asked.done() or now < next_look:
                    continue
                finding = self._late(canary, began)
                self.observe(canary, finding)
                if finding.level is Level.CRITICAL:
                    given_up = min(given_up, now + self._stall(canary))
                settings = self._means.settings.value
                settled = assessment.settled(Layer.CANARY, subject=self._model)
                next_look = now + (settings.every.canary if settled else settings.fast_interval)
            return asked.result()
        finally:
            asked.cancel()

    async def _infer(
        self, canary: Canary, described: ModelDescription, began: float
    ) -> Finding | None:
        """What a canary finds; None if it is the server that fails, which has been said."""
        patience = _PATIENCE * self._stall(canary) + described.sequence_idle + canary.timeout
        if described.stateful or described.cached:
            await self._read()  # so that the canary before this one is counted
        before = self.progress.counted
        try:
            canary, answer = await self._answer(canary, described, patience)
        except Overloaded as error:
            return await self._no_room(canary, error, began)
        except SidecarError as error:
            self._refused = None
            mine = self._means.clock.now() - began >= patience
            if isinstance(error, DeadlineExceeded) and mine:
                return self._late(canary, began)
            return await self._failed(error, began)
        self._refused = None
        self._answered = before, len(canary.steps)
        found = await self._judged(canary, described, answer, began)
        await self._heed_cache(described, before)
        return found

    async def _heed_cache(self, described: ModelDescription, before: Counted | None) -> None:
        """Note whether Triton's cache has answered; the counters were `before` that."""
        if not described.cached:
            self._cached = self._told_of_cache = False
            return
        await self._read()
        worked = self.progress.counted
        idle = before is not None and worked is not None and worked.work == before.work
        self._cached = idle and self.progress.known
        if self._cached and not self._told_of_cache:
            self._told_of_cache = True
            self._means.hook(CanaryCached(self._model, cache_advice(self._model)))

    async def _answer(
        self, canary: Canary, described: ModelDescription, patience: float
    ) -> tuple[Canary, Answer]:
        """An answer, and the canary that it is to be judged by.

        One that a cache cannot answer comes first. Where that is another question to the model, the
        canary itself is asked as well: it may be answered by the cache, but not by a dead model.
        """
        triton = self._means.triton
        varied = self._vary(canary, described)
        if varied is None:
            return canary, await triton.infer(canary.question(described), patience)
        try:
            answer = await triton.infer(varied.question(described), patience)
        except Rejected:
            if not self._variation.on_trial:
                raise
            self._variation = self._variation.after(Taken.NOT)
        else:
            if self._variation.on_trial:
                wrong = fault(varied, described, answer)
                self._variation = self._variation.after(Taken.OTHERWISE if wrong else Taken.RIGHTLY)
            if self._variation.taken is not Taken.OTHERWISE:
                return varied, answer
        self.progress = asking(self.progress, len(canary.steps), True)
        return canary, await triton.infer(canary.question(described), patience)

    def _vary(self, canary: Canary, described: ModelDescription) -> Canary | None:
        """A question that Triton's cache cannot answer; None if there is no need or no way."""
        if not described.cached:
            return None
        self._variation = self._variation.of(described)
        return self._variation.question(canary, random.randrange(NUMBERS))  # noqa: S311

    async def _judged(
        self, canary: Canary, described: ModelDescription, answer: Answer, began: float
    ) -> Finding:
        if answer.size > _LARGE:
            judging = partial(fault, canary, described, answer)
            wrong = await in_daemon_thread(judging, f"canary of {self._model}")
        else:
            wrong = fault(canary, described, answer)
        if canary.derived:
            self.derived.heard(answer, passed=not wrong)
        if not wrong:
            finding = answered(canary, answer, began, self.progress)
            if finding.level is Level.CRITICAL:  # unless others have finished just now
                await self._read()
                finding = answered(canary, answer, began, self.progress)
            return finding
        reason, why = wrong
        return Finding(Layer.CANARY, self._model, reason, f"{self._model}: {why}", answer.seconds)

    async def _failed(self, error: SidecarError, began: float) -> Finding | None:
        name, reason = self._model, Reason.CANARY_FAILED
        if isinstance(error, AnswerTooLarge):
            reason = Reason.CANARY_TOO_LARGE
        elif isinstance(error, NotAdmitted):
            reason = Reason.CONFIG
        elif isinstance(error, Unavailable):
            if not await self._server.still_answers():
                return None
            await self._read()  # others may have finished just now
            lately = began - self._means.settings.value.stall
            if self.progress.known and self.progress.others_since(lately):
                reason = Reason.MODEL_BUSY  # it answers others, and refuses us
        seconds = self._means.clock.now() - began
        return Finding(Layer.CANARY, name, reason, f"{name}: {error}", seconds)

    async def _no_room(self, canary: Canary, error: Overloaded, began: float) -> Finding:
        if self._refused is None:
            self._refused = began
        await self._read()  # others may have finished just now
        now = self._means.clock.now()
        stall = self._stall(canary)
        return refused(canary, str(error), self._refused, stall, self.progress, now)

    def _late(self, canary: Canary, began: float) -> Finding:
        now = self._means.clock.now()
        stall = self._stall(canary)
        return unanswered(canary, began, stall, self.progress, now, self._held())

    def _held(self) -> float:
        """Seconds for which silent clients may hold every slot for sequences.

        Who holds one has been answered: nobody does, if nobody was since a canary of ours had one.
        """
        described = self._described.value
        alone = self.progress.known and self.progress.alone_since(*self._answered)
        return 0.0 if described is None or alone else described.sequence_idle

    def _stall(self, canary: Canary) -> float:
        described, settings = self._described.value, self._means.settings.value
        if canary.stall is not None:
            return canary.stall
        blind = described and described.decoupled and not self.progress.sees_streams
        return settings.stream_stall if blind else settings.stall
