"""Looks at the server itself: port, live, ready."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, replace

from sidecar.events import Hook
from sidecar.health.assessment import Assessment
from sidecar.health.readiness import unserved_not_ready
from sidecar.health.rules import ProbeRules
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import Exiting, NotAdmitted, Refused, SidecarError
from sidecar.runtime.latest import Latest, first_of
from sidecar.triton.api import TritonApi
from sidecar.verdict.evidence import SERVER, Finding, Layer, Level, Reason

# The answer no, and no answer.
_REASONS = {
    Layer.PORT: (Reason.PORT_UNREACHABLE, Reason.PORT_UNREACHABLE),
    Layer.LIVE: (Reason.SERVER_NOT_LIVE, Reason.SERVER_UNANSWERED),
    # Triton's models are asked for by themselves: it is live, and may answer for all of them.
    Layer.READY: (Reason.SERVER_NOT_READY, Reason.SERVER_NOT_READY),
}
_JITTER = 0.1  # many sidecars must not ask in step
Query = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class ProbeContext:
    """What every probe of one Triton works with."""

    triton: TritonApi
    assessment: Assessment
    rules: Latest[ProbeRules]
    clock: Clock
    hook: Hook

    async def pause(
        self, layers: Iterable[Layer], subject: str, interval: float, *wakeups: Awaitable[object]
    ) -> None:
        """Wait until layers of a subject are to be looked at again, or one of `wakeups` completes.

        That is after the fast interval if their findings disagree with their levels.
        """
        rules, seen = self.rules.value, self.rules.version
        settled = self.assessment.settled(*layers, subject=subject)
        seconds = self.clock.jitter(interval if settled else rules.fast_interval, _JITTER)
        await first_of(self.clock, seconds, self.rules.changed(seen), *wakeups)


class ServerProbe:
    """Looks until it is cancelled; `answers` is whether the last look found nothing critical.

    For models that are not among those `served` the server may be as little ready as it likes.
    """

    def __init__(self, context: ProbeContext, served: Collection[str] = ()) -> None:
        self._served = frozenset(served)
        self.answers: Latest[bool] = Latest(False)
        self._context = context
        self._begun = 0
        self._ended: Latest[int] = Latest(0)  # the number of the look that ended last
        self._look_now = asyncio.Event()
        self._refused = False

    async def run(self) -> None:
        """Look for ever; at once when the connection to Triton breaks."""
        context = self._context
        while True:
            self._look_now.clear()
            self._begun += 1
            findings = await self._look()
            context.assessment.observe(*findings)
            self.answers.set(findings[-1].level is not Level.CRITICAL)
            self._ended.set(self._begun)
            layers = [finding.layer for finding in findings]
            interval = context.rules.value.every.server
            lost = context.triton.disconnected()
            await context.pause(layers, SERVER, interval, lost, self._asked())

    async def still_answers(self) -> bool:
        """Whether a look from now on finds nothing critical: is it the server or the model?"""
        begun = self._begun
        self._look_now.set()
        while self._ended.value <= begun:
            await self._ended.changed(self._ended.version)
        return self.answers.value

    async def _asked(self) -> None:
        """Wait until somebody asks for a look; however many do soon, they share one."""
        await self._context.clock.sleep(self._context.rules.value.fast_interval)
        await self._look_now.wait()

    async def _look(self) -> list[Finding]:
        """From the outside in; a layer that fails leaves those behind it unasked."""
        findings: list[Finding] = []
        for layer, question in self._questions():
            findings.append(await self._ask(layer, question))
            if not findings[-1].ok:
                break
        return findings

    async def _excused(self, finding: Finding) -> Finding:
        """A no of Triton's, unless it is not ready only for models that nobody serves here."""
        if finding.reason is not Reason.SERVER_NOT_READY:
            return finding
        timeout = self._context.rules.value.server_timeout
        try:
            names = unserved_not_ready(
                await self._context.triton.repository_index(timeout), self._served
            )
        except SidecarError as error:
            return replace(
                finding, detail=f"{finding.detail}; cannot tell for which model: {error}"
            )
        if not names:
            return finding
        remark = f"models that are not served are not ready: {names}"
        return replace(finding, reason=Reason.OK, detail="", remark=remark)

    async def _ask(self, layer: Layer, question: Query) -> Finding:
        """Ask whether something is so; no answer is something else than the answer no."""
        began = self._context.clock.now()
        no, nothing = _REASONS[layer]
        reason, detail, denied = Reason.OK, "", False
        try:
            if await question() is False:
                reason, detail, denied = no, f"{layer}: Triton reports that it is not", True
        except NotAdmitted as error:  # it is alive, and started anew would say the same
            reason, detail = Reason.CONFIG, f"{layer}: {error}"
        except Exiting as error:  # an answer, and no hang: what it still has is being finished
            reason, detail = no, f"{layer}: {error}"
        except SidecarError as error:
            reason, detail = nothing, f"{layer}: {error}"
        found = Finding(layer, SERVER, reason, detail, self._context.clock.now() - began)
        return await self._excused(found) if denied else found

    def _questions(self) -> Iterable[tuple[Layer, Query]]:
        rules, triton = self._context.rules.value, self._context.triton
        yield Layer.PORT, lambda: self._connect(rules.port_timeout)
        yield Layer.LIVE, lambda: triton.server_live(rules.server_timeout)
        yield Layer.READY, lambda: triton.server_ready(rules.server_timeout)

    async def _connect(self, timeout: float) -> None:
        """Connect. A port that was closed and is open belongs to a Triton started anew."""
        try:
            await self._context.triton.connect(timeout)
        except Refused:
            self._refused = True
            raise
        if self._refused:
            self._refused = False
            self._context.assessment.restarted()
