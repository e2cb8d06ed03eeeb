"""Looks at the server itself: port, live, ready."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from sidecar.clock import Clock
from sidecar.errors import SidecarError
from sidecar.health.assessment import Assessment
from sidecar.health.evidence import SERVER, Finding, Layer, Reason
from sidecar.latest import Latest, first_of
from sidecar.settings.health import HealthSettings
from sidecar.triton_api import TritonApi

# The answer no, and no answer.
_REASONS = {
    Layer.PORT: (Reason.PORT_UNREACHABLE, Reason.PORT_UNREACHABLE),
    Layer.LIVE: (Reason.SERVER_NOT_LIVE, Reason.SERVER_UNANSWERED),
    Layer.READY: (Reason.SERVER_NOT_READY, Reason.SERVER_UNANSWERED),
    Layer.MODEL: (Reason.MODEL_NOT_READY, Reason.MODEL_UNANSWERED),
}
Question = Callable[[], Awaitable[object]]


class ServerProbe:
    """Looks until it is cancelled.

    `answers` is whether the last look found nothing wrong, `restarts` how often the port came back
    after it had been closed.
    """

    def __init__(
        self,
        triton: TritonApi,
        assessment: Assessment,
        settings: Latest[HealthSettings],
        clock: Clock,
    ) -> None:
        self.answers: Latest[bool] = Latest(False)
        self.restarts: Latest[int] = Latest(0)
        self._closed = False
        self._triton = triton
        self._assessment = assessment
        self._settings = settings
        self._clock = clock
        self._looks: Latest[int] = Latest(0)
        self._look_now = asyncio.Event()

    async def run(self) -> None:
        """Look for ever; at once when the connection to Triton breaks."""
        while True:
            self._look_now.clear()
            findings = await self._look()
            self._assessment.observe(*findings)
            self._count_restarts(opened=findings[0].ok)
            self.answers.set(findings[-1].ok)
            self._looks.set(self._looks.value + 1)
            layers = [finding.layer for finding in findings]
            settings = self._settings.value
            settled = self._assessment.settled(*layers, subject=SERVER)
            pause = settings.every.server if settled else settings.fast_interval
            await first_of(
                self._clock,
                self._clock.jitter(pause, 0.1),
                self._triton.disconnected(),
                self._look_now.wait(),
            )

    async def still_answers(self) -> bool:
        """Whether another look finds nothing wrong: tells its failures from those of a model."""
        seen = self._looks.version
        self._look_now.set()
        await self._looks.changed(seen)
        return self.answers.value

    def _count_restarts(self, *, opened: bool) -> None:
        if opened and self._closed:
            self.restarts.set(self.restarts.value + 1)
        self._closed = not opened

    async def _look(self) -> list[Finding]:
        """From the outside in; a layer that fails leaves those behind it unasked."""
        findings: list[Finding] = []
        for layer, question in self._questions():
            findings.append(await ask(layer, SERVER, question, self._clock))
            if not findings[-1].ok:
                break
        return findings

    def _questions(self) -> Iterable[tuple[Layer, Question]]:
        settings, triton = self._settings.value, self._triton
        yield Layer.PORT, lambda: triton.connect(settings.port_timeout)
        yield Layer.LIVE, lambda: triton.server_live(settings.server_timeout)
        yield Layer.READY, lambda: triton.server_ready(settings.server_timeout)


async def ask(layer: Layer, subject: str, question: Question, clock: Clock) -> Finding:
    """Ask Triton whether something is so; no answer is something else than the answer no."""
    began = clock.now()
    no, nothing = _REASONS[layer]
    reason, detail = Reason.OK, ""
    try:
        if await question() is False:
            reason, detail = no, f"{subject or layer}: Triton says no"
    except SidecarError as error:
        reason, detail = nothing, f"{subject or layer}: {error}"
    return Finding(layer, subject, reason, detail, clock.now() - began)
