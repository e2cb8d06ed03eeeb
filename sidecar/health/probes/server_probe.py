"""The probe of the server itself: port, live, ready.

Acts: asyncio.
"""

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

# The reason for the answer no, and for no answer.
_REASONS = {
    Layer.PORT: (Reason.PORT_UNREACHABLE, Reason.PORT_UNREACHABLE),
    Layer.LIVE: (Reason.SERVER_NOT_LIVE, Reason.SERVER_UNANSWERED),
    # Without an answer Triton is still live; the models have their own probes.
    Layer.READY: (Reason.SERVER_NOT_READY, Reason.SERVER_NOT_READY),
}
_JITTER = 0.1  # many sidecars must not probe in step
Query = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class ProbeContext:
    """The context that all probes of one Triton share; `models` is how many are probed."""

    triton: TritonApi
    models: int
    assessment: Assessment
    rules: Latest[ProbeRules]
    clock: Clock
    hook: Hook

    async def pause(
        self, layers: Iterable[Layer], subject: str, interval: float, *wakeups: Awaitable[object]
    ) -> None:
        """Wait until a subject's layers are due for a probe, or one of `wakeups` completes.

        They are due after the fast interval if their findings disagree with their levels.
        """
        rules, seen = self.rules.value, self.rules.version
        settled = self.assessment.settled(*layers, subject=subject)
        seconds = self.clock.jitter(interval if settled else rules.fast_interval, _JITTER)
        await first_of(self.clock, seconds, self.rules.changed(seen), *wakeups)


class ServerProbe:
    """Probes the server until cancelled; `answers` is False after a critical finding.

    A server that is not ready only because of models that are not `served` counts as ready.
    """

    def __init__(self, context: ProbeContext, served: Collection[str] = ()) -> None:
        self._served = frozenset(served)
        self.answers: Latest[bool] = Latest(False)
        self._context = context
        self._begun = 0
        self._ended: Latest[int] = Latest(0)  # the number of the probe that ended last
        self._probe_now = asyncio.Event()
        self._refused = False

    async def run(self) -> None:
        """Probe periodically, and at once when the connection to Triton breaks."""
        context = self._context
        while True:
            self._probe_now.clear()
            self._begun += 1
            findings = await self._probe()
            context.assessment.observe(*findings)
            self.answers.set(findings[-1].level is not Level.CRITICAL)
            self._ended.set(self._begun)
            layers = [finding.layer for finding in findings]
            interval = context.rules.value.every.server
            lost = context.triton.disconnected()
            await context.pause(layers, SERVER, interval, lost, self._requested())

    async def still_answers(self) -> bool:
        """Whether a probe that starts now finds nothing critical: server or model at fault?"""
        begun = self._begun
        self._probe_now.set()
        while self._ended.value <= begun:
            await self._ended.changed(self._ended.version)
        return self.answers.value

    async def _requested(self) -> None:
        """Wait until a probe is requested; requests in quick succession share one."""
        await self._context.clock.sleep(self._context.rules.value.fast_interval)
        await self._probe_now.wait()

    async def _probe(self) -> list[Finding]:
        """Probe from the outside in; a layer that fails ends the probe."""
        findings: list[Finding] = []
        for layer, query in self._queries():
            findings.append(await self._ask(layer, query))
            if not findings[-1].ok:
                break
        return findings

    async def _excused(self, finding: Finding) -> Finding:
        """The finding, or OK if Triton is not ready only because of models that are not served."""
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

    async def _ask(self, layer: Layer, query: Query) -> Finding:
        """Run a query; no answer is a different finding from the answer no."""
        began = self._context.clock.now()
        no, nothing = _REASONS[layer]
        reason, detail, denied = Reason.OK, "", False
        try:
            if await query() is False:
                reason, detail, denied = no, f"{layer}: Triton reports that it is not", True
        except NotAdmitted as error:  # it is alive, and would say the same after a restart
            reason, detail = Reason.CONFIG, f"{layer}: {error}"
        except Exiting as error:  # not hung: Triton is finishing its last requests
            reason, detail = no, f"{layer}: {error}"
        except SidecarError as error:
            reason, detail = nothing, f"{layer}: {error}"
        found = Finding(layer, SERVER, reason, detail, self._context.clock.now() - began)
        return await self._excused(found) if denied else found

    def _queries(self) -> Iterable[tuple[Layer, Query]]:
        rules, triton = self._context.rules.value, self._context.triton
        yield Layer.PORT, lambda: self._connect(rules.port_timeout)
        yield Layer.LIVE, lambda: triton.server_live(rules.server_timeout)
        yield Layer.READY, lambda: triton.server_ready(rules.server_timeout)

    async def _connect(self, timeout: float) -> None:
        """Connect. A port that was closed and is open again belongs to a restarted Triton."""
        try:
            await self._context.triton.connect(timeout)
        except Refused:
            self._refused = True
            raise
        if self._refused:
            self._refused = False
            self._context.assessment.restarted()
