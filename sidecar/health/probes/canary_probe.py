"""The canary probe of one model: sends its canary and judges the answer, or its absence.

Acts: asyncio.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from sidecar.events import CanaryDerived, CanarySent
from sidecar.health.canary.definition import Canary
from sidecar.health.canary.derive import advice
from sidecar.health.canary.derived_canary import DerivedCanary, Proven
from sidecar.health.canary.judge import fault, misfit
from sidecar.health.neighbours import NOT_HELD, HeldUp
from sidecar.health.probes.cache_probe import CacheProbe
from sidecar.health.probes.neighbour_probe import NeighbourProbe
from sidecar.health.probes.server_probe import ProbeContext, ServerProbe
from sidecar.health.progress import (
    Counted,
    Progress,
    after_sending,
    answered,
    pace,
    refused,
    unanswered,
)
from sidecar.runtime.errors import (
    AnswerTooLarge,
    DeadlineExceeded,
    NotAdmitted,
    Overloaded,
    SidecarError,
    Unavailable,
)
from sidecar.runtime.latest import Latest, first_of
from sidecar.runtime.threads import in_daemon_thread
from sidecar.triton.api import Answer, ModelDescription
from sidecar.verdict.evidence import Finding, Layer, Level, Reason

_PATIENCE = 4  # stall windows after which a canary is abandoned even if the model makes progress
_RECENT = 5  # answers, of which the quickest shows what a canary takes without waiting
_LARGE = 2**18  # bytes; larger answers are judged in a thread, so that they do not block the loop


class CanaryProbe:
    """Sends one canary at a time: the `given` one, or one derived from the model's description.

    `described` is the model's description while it is ready, else None, which ends the wait for an
    answer. The reader of Triton's counters sets `progress`; `read_statistics` runs it at once.
    """

    def __init__(
        self,
        model: str,
        server: ServerProbe,
        context: ProbeContext,
        read_statistics: Callable[[], Awaitable[None]],
        neighbours: NeighbourProbe,
        described: Latest[ModelDescription | None],
        proven: Proven | None = None,
    ) -> None:
        self.given: Canary | None = None
        self.derived = DerivedCanary(proven)
        self.progress = Progress()
        self._model = model
        self._server = server
        self._context = context
        self._read_statistics = read_statistics
        self._neighbours = neighbours
        self._described = described
        self._advised = False
        self._waiting = False  # an abandoned canary, or another client's request, is pending
        self._refused: float | None = None  # since when the model refuses canaries for load
        # The counters before the last answered canary, and how many requests that canary had.
        self._answered: tuple[Counted | None, int] = (None, 0)
        self._took: deque[float] = deque(maxlen=_RECENT)
        self._cache = CacheProbe(context)

    @property
    def version(self) -> str:
        """The version that has to be loaded; empty for any."""
        return self.given.version if self.given else ""

    @property
    def traffic_budget(self) -> float | None:
        """Mean seconds above which clients' requests are slow; None for no budget.

        For models that stream, Triton only counts the time until their work starts.
        """
        streams = self._described.value is None or self._described.value.decoupled
        return None if streams or self.given is None else self.given.budgets.traffic

    @property
    def interval(self) -> float:
        """Seconds from the last finding to the next canary."""
        rules = self._context.rules.value
        took = min(self._took, default=None)
        interval = pace(self.progress.traffic, took, rules, self._context.models)
        if self._refused is not None:  # notice soon when its queue has room again
            interval = min(interval, rules.stall / 2)
        return interval

    def reloaded(self) -> None:
        """Forget what an earlier load of the model answered."""
        self.derived.reloaded()
        self._took.clear()
        self._cache.reloaded()

    def choose(self, described: ModelDescription) -> tuple[Canary | None, str]:
        """The canary for a model with this description, or why there is none."""
        canary = self.given or self.derived.of(described)
        if isinstance(canary, str):
            return None, canary
        why = misfit(canary, described)
        return (None, why) if why else (canary, "")

    async def send(self, canary: Canary, described: ModelDescription) -> Finding | None:
        """Send a canary; gives its finding, None if it was abandoned."""
        if canary.derived and not self._advised:
            self._advised = True
            self._context.hook(CanaryDerived(self._model, advice(self._model)))
        self._context.hook(CanarySent(self._model))
        self.progress = after_sending(self.progress, len(canary.steps), self._waiting)
        self._waiting = True
        finding = await self._watched(canary, described)
        self._waiting = finding is None or self._refused is not None
        return finding

    def observe(self, canary: Canary | None, finding: Finding) -> None:
        """Report a finding, with remarks about its canary."""
        remarks = []
        if canary and canary.derived:
            finding = self.derived.excused(finding)
            remarks.append("derived canary")
        if self._cache.answered and finding.ok:
            remarks.append("answered from the response cache, which proves nothing about the model")
        self._context.assessment.observe(replace(finding, remark="; ".join(remarks)))

    async def _watched(self, canary: Canary, described: ModelDescription) -> Finding | None:
        """Send a canary, and report it as late until it is answered.

        Gives None if the model is no longer ready; and, one stall window after the model was found
        hung, because a lost answer must not keep a recovered model down.
        """
        clock, assessment = self._context.clock, self._context.assessment
        began = clock.now()
        sent = asyncio.ensure_future(self._infer(canary, described, began))
        next_check, abandon_at = began + canary.timeout, float("inf")
        try:
            while not sent.done():
                seen = self._described.version
                pause = max(next_check - clock.now(), 0.0)
                await first_of(clock, pause, asyncio.shield(sent), self._described.changed(seen))
                now = clock.now()
                if self._described.value is None or now >= abandon_at:
                    return None
                if sent.done() or now < next_check:
                    continue
                finding = await self._late(canary, began)
                if sent.done():
                    break
                self.observe(canary, finding)
                if finding.level is Level.CRITICAL:
                    abandon_at = min(abandon_at, now + self._stall(canary))
                rules = self._context.rules.value
                settled = assessment.settled(Layer.CANARY, subject=self._model)
                next_check = now + (rules.every.canary if settled else rules.fast_interval)
            return sent.result()
        finally:
            sent.cancel()

    async def _infer(
        self, canary: Canary, described: ModelDescription, began: float
    ) -> Finding | None:
        """Send a canary; gives its finding, None if the server fails, which its probe reports."""
        patience = _PATIENCE * self._stall(canary) + described.sequence_idle + canary.timeout
        if described.stateful or described.cached:
            await self._read_statistics()  # so that the previous canary is counted
        before, sent = self.progress.counted, self._context.clock.now()
        try:
            canary, answer = await self._cache.send(
                canary, described, patience, partial(self._once_more, canary)
            )
        except Overloaded as error:
            return await self._no_room(canary, error, began)
        except SidecarError as error:
            self._refused = None
            mine = self._context.clock.now() - began >= patience
            if isinstance(error, DeadlineExceeded) and mine:
                return await self._late(canary, began)
            return await self._failed(error, began)
        self._refused = None
        self._answered = before, len(canary.steps)
        self._took.append(self._context.clock.now() - sent)
        found = await self._judged(canary, described, answer, began)
        if described.cached:
            await self._read_statistics()
            self._cache.note(canary, before, self.progress)
        else:
            self._cache.forget()
        return found

    def _once_more(self, canary: Canary) -> None:
        self.progress = after_sending(self.progress, len(canary.steps), True)

    async def _judged(
        self, canary: Canary, described: ModelDescription, answer: Answer, began: float
    ) -> Finding:
        if answer.size > _LARGE:
            judging = partial(fault, canary, described, answer)
            wrong = await in_daemon_thread(judging, f"canary of {self._model}")
        else:
            wrong = fault(canary, described, answer)
        if canary.derived:
            self.derived.record(answer, passed=not wrong)
        if not wrong:
            finding = answered(canary, answer, began, self.progress)
            if finding.level is Level.CRITICAL:  # unless other requests have just finished
                await self._read_statistics()
                held = await self._held_by_others(self._stall(canary), refused=False)
                finding = answered(canary, answer, began, self.progress, held)
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
            await self._read_statistics()  # other requests may have just finished
            lately = began - self._context.rules.value.stall
            if self.progress.known and self.progress.others_since(lately):
                reason = Reason.MODEL_BUSY  # it answers clients, but refuses the canary
        seconds = self._context.clock.now() - began
        return Finding(Layer.CANARY, name, reason, f"{name}: {error}", seconds)

    async def _no_room(self, canary: Canary, error: Overloaded, began: float) -> Finding:
        if self._refused is None:
            self._refused = began
        await self._read_statistics()  # other requests may have just finished
        stall = self._stall(canary)
        held = await self._held_by_others(stall, refused=True)
        if held.seconds == float("inf"):  # progress of what it waits for counts as its own
            self.progress = replace(self.progress, still=0.0)
        now = self._context.clock.now()
        return refused(canary, str(error), self._refused, stall, self.progress, now, held)

    async def _late(self, canary: Canary, began: float) -> Finding:
        stall = self._stall(canary)
        held = await self._held_by_others(stall, refused=False)
        held = max(held, self._held_by_sequences(), key=lambda each: each.seconds)
        now = self._context.clock.now()
        return unanswered(canary, began, stall, self.progress, now, held)

    async def _held_by_others(self, stall: float, refused: bool) -> HeldUp:
        described = self._described.value
        if described is None:
            return NOT_HELD
        return await self._neighbours.hold(described, stall, refused)

    def _held_by_sequences(self) -> HeldUp:
        """For how long silent clients may hold all sequence slots.

        A slot's holder has had an answer: if no other client was answered since a canary last had a
        slot, none holds one.
        """
        described = self._described.value
        alone = self.progress.known and self.progress.alone_since(*self._answered)
        if described is None or alone:
            return NOT_HELD
        return HeldUp(described.sequence_idle, "silent clients may hold all sequence slots")

    def _stall(self, canary: Canary) -> float:
        described, rules = self._described.value, self._context.rules.value
        if canary.stall is not None:
            return canary.stall
        blind = described and described.decoupled and not self.progress.sees_streams
        return rules.stream_stall if blind else rules.stall
