"""Looks at one model: whether it is ready, and what it answers to its canary."""

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
from sidecar.health.evidence import SERVER, Finding, Layer, Level, Reason
from sidecar.health.loaded import look_at, still_so
from sidecar.health.probe_server import Means, ServerProbe
from sidecar.health.progress import Counted, Progress, answered, asking, pace, refused, unanswered
from sidecar.health.stub_watch import StubWatch
from sidecar.health.stubs import Staff
from sidecar.health.stubs import finding as stub_finding
from sidecar.health.varied import NUMBERS, Taken, Variation
from sidecar.health.varied import advice as cache_advice
from sidecar.latest import Latest, first_of
from sidecar.threads import in_daemon_thread
from sidecar.triton_api import Answer, ModelDescription
from sidecar.triton_stubs_api import Stub

_PATIENCE = 4  # stall windows after which a canary is given up although the model moves
_DESCRIBE = 10  # looks after which a model is described anew in any case
_LARGE = 2**18  # bytes; what takes longer to judge must not hold up the loop
# What is found by a question, and about its answer, that only the right model could be asked.
_OF_DESCRIBED = frozenset(
    {
        *(Reason.CONFIG, Reason.CANARY_FAILED),
        *(Reason.CANARY_WRONG_ANSWER, Reason.CANARY_TOO_LARGE),
    }
)


class ModelProbe:
    """Its loops run until they are cancelled. `described` is the model while it is ready.

    `progress` is set by whoever reads Triton's counters, which `read` has done at once. Without a
    canary, the model is asked one that is derived from its description.
    """

    def __init__(
        self,
        model: str,
        server: ServerProbe,
        means: Means,
        turn: Callable[[], Awaitable[None]],
        read: Callable[[], Awaitable[None]],
        stubs: StubWatch,
        proven: Proven | None = None,
    ) -> None:
        self.derived = DerivedCanary(proven)
        self.canary: Canary | None = None
        self.described: Latest[ModelDescription | None] = Latest(None)
        self.progress = Progress()
        self._model = model
        self._server = server
        self._means = means
        self._turn = turn
        self._read = read
        self._stubs = stubs
        self._advised = False
        self._waiting = False  # for the answer to a canary that was given up, or others are
        self._refused: float | None = None  # since when it has no room for canaries
        # The counters before the last canary that was answered, and how many requests that was.
        self._answered: tuple[Counted | None, int] = (None, 0)
        self._looks_until_described = 0
        self._look_now = asyncio.Event()
        self._ask_now = asyncio.Event()
        self._staff = Staff()
        self._variation = Variation()
        self._cached = False  # whether the last answer came from Triton's cache
        self._told_of_cache = False
        self._forgotten = 0  # how often
        self._generation = 0

    @property
    def traffic_budget(self) -> float | None:
        """Mean seconds above which the requests of clients are slow; None where that says nothing.

        Of models that stream Triton counts only the time until their work begins.
        """
        streams = self.described.value is None or self.described.value.decoupled
        return None if streams or self.canary is None else self.canary.budgets.traffic

    def forget(self) -> None:
        """Take the model for one that may not be loaded; a look that is taken at once tells."""
        self._forgotten += 1
        self.described.set(None)
        self._look_now.set()

    def doubt(self) -> None:
        """Look and ask at once: something that the model may need has ended."""
        self._look_now.set()
        self._ask_now.set()

    # --- ready --------------------------------------------------------------------------------

    async def watch(self) -> None:
        """See for ever whether the model is ready, while the server answers."""
        assessment = self._means.assessment
        restarts = assessment.restarts.value
        while True:
            seen = await _true(self._server.answers)
            self._look_now.clear()
            if restarts != assessment.restarts.value:
                restarts = assessment.restarts.value
                self.described.set(None)  # it may be another model
            forgotten = self._forgotten
            finding, described = await self._look()
            if finding.ok or await self._server.still_answers():
                assessment.observe(finding)
                # One look without an answer is no reason to give a canary up.
                silent = finding.reason is Reason.MODEL_UNANSWERED
                tells = not silent or assessment.is_down(Layer.MODEL, subject=self._model)
                if tells and forgotten == self._forgotten:
                    self.described.set(described)
                interval = self._means.settings.value.every.model
                news = self._server.answers.changed(seen), self._look_now.wait()
                await self._means.pause((Layer.MODEL,), self._model, interval, *news)
            elif assessment.is_down(Layer.PORT, Layer.LIVE, Layer.READY, subject=SERVER):
                self.described.set(None)

    async def _look(self) -> tuple[Finding, ModelDescription | None]:
        means, timeout = self._means, self._means.settings.value.model_timeout
        version = self.canary.version if self.canary else ""
        began = means.clock.now()
        found, described = await look_at(
            means.triton, self._model, version, timeout, lambda: self._describe(timeout)
        )
        if described is not None:
            await self._stubs.begun()
            if await self._misses_stubs(described, self._stubs.seen):
                found = stub_finding(described)
        return replace(found, seconds=means.clock.now() - began), described

    async def _misses_stubs(
        self, described: ModelDescription, stubs: tuple[Stub, ...] | None
    ) -> bool:
        """Whether stubs of the model have died, as those that were seen make believe.

        They are looked at after the model was ready, for it may be unloading; and it is described
        anew, for it may run in fewer instances by now.
        """
        self._staff = self._staff.after(described, stubs)
        timeout = self._means.settings.value.model_timeout
        if not self._staff.missing(described, stubs) or not await still_so(
            self._means.triton, described, timeout
        ):
            return False
        return self._staff.missing(described, await self._stubs.look()) > 0

    async def _describe(self, timeout: float) -> ModelDescription:
        """The description, asked anew after the model was loaded anew, and now and then."""
        self._looks_until_described -= 1
        self._heed_reload()
        if self.described.value is not None and self._looks_until_described > 0:
            return self.described.value
        self._looks_until_described = _DESCRIBE
        try:
            return await self._means.triton.describe(self._model, timeout)
        except SidecarError:
            self._looks_until_described = 0  # it is owed still
            raise

    def _heed_reload(self) -> None:
        if self.progress.generation != self._generation:
            self._generation = self.progress.generation
            self._looks_until_described = 0
            self.derived.reloaded()
            self._variation = Variation()

    # --- canary -------------------------------------------------------------------------------

    async def ask(self) -> None:
        """Send one canary after the other for ever, while the model is ready."""
        while True:
            if self.described.value is None:
                await self.described.changed(self.described.version)
            await _true(self._server.answers)
            await self._turn()
            self._ask_now.clear()
            # Only now: after so much waiting it may be another model.
            described, seen = self.described.value, self.described.version
            if described is None:
                continue
            settings = self._means.settings.value
            if not await self._round(described):
                # Until it is known what model it is by now.
                await first_of(
                    self._means.clock, settings.fast_interval, self.described.changed(seen)
                )
                continue
            interval = pace(
                self.progress.traffic,
                settings.every.canary,
                settings.every.canary_floor,
                settings.fast_interval,
            )
            if self._refused is not None:  # its queue may be empty meanwhile, which counts
                interval = min(interval, settings.stall / 2)
            news = self._ask_now.wait()
            await self._means.pause((Layer.CANARY,), self._model, interval, news)

    async def _round(self, described: ModelDescription) -> bool:
        """Ask once, if there is something to ask; False if the model is not the one described."""
        self._heed_reload()
        generation = self._generation
        canary, why = self._choose(described)
        if canary is None:
            detail = f"{self._model}: {why}"
            finding: Finding | None = Finding(Layer.CANARY, self._model, Reason.CONFIG, detail)
        else:
            finding = await self._asked(canary, described)
        if finding is None:
            return True
        if finding.reason in _OF_DESCRIBED and await self._outdated(described, generation):
            return False
        failed = finding.reason is Reason.CANARY_FAILED
        if failed and await self._misses_stubs(described, await self._stubs.look()):
            self._means.assessment.observe(stub_finding(described))  # the cause comes first
        self._observe(canary, finding)
        return True

    async def _asked(self, canary: Canary, described: ModelDescription) -> Finding | None:
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

    async def _outdated(self, described: ModelDescription, generation: int) -> bool:
        """Whether the model is another one than the one that was asked, or cannot be asked that.

        If so, the next look, which is taken at once, says what it is.
        """
        await self._read()
        loaded_anew = self.progress.generation != generation
        timeout = self._means.settings.value.model_timeout
        if not loaded_anew and await still_so(self._means.triton, described, timeout):
            return False
        self._looks_until_described = 0
        self._look_now.set()
        return True

    def _observe(self, canary: Canary | None, finding: Finding) -> None:
        remarks = []
        if canary and canary.derived:
            finding = self.derived.excused(finding)
            remarks.append("derived canary")
        if self._cached and finding.ok:
            remarks.append("answered from the response cache: proves nothing of the model")
        self._means.assessment.observe(replace(finding, remark="; ".join(remarks)))

    def _choose(self, described: ModelDescription) -> tuple[Canary | None, str]:
        """The canary, or why there is none."""
        canary = self.canary or self.derived.of(described)
        if isinstance(canary, str):
            return None, canary
        why = misfit(canary, described)
        return (None, why) if why else (canary, "")

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
                seen = self.described.version
                pause = max(next_look - clock.now(), 0.0)
                await first_of(clock, pause, asyncio.shield(asked), self.described.changed(seen))
                now = clock.now()
                if self.described.value is None or now >= given_up:
                    return None
                if asked.done() or now < next_look:
                    continue
                finding = self._late(canary, began)
                self._observe(canary, finding)
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
        if described.cached:
            await self._read()
            worked = self.progress.counted
            idle = before is not None and worked is not None and worked.work == before.work
            self._cached = idle and self.progress.known
            if self._cached and not self._told_of_cache:
                self._told_of_cache = True
                self._means.hook(CanaryCached(self._model, cache_advice(self._model)))
        else:
            self._cached = self._told_of_cache = False
        return found

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
        described = self.described.value
        alone = self.progress.known and self.progress.alone_since(*self._answered)
        return 0.0 if described is None or alone else described.sequence_idle

    def _stall(self, canary: Canary) -> float:
        described, settings = self.described.value, self._means.settings.value
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
