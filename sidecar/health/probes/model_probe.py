"""The probe of one model: whether it is ready, and when its canary is sent.

Acts: asyncio.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from sidecar.health.canary.derived_canary import Proven
from sidecar.health.probes.canary_probe import CanaryProbe
from sidecar.health.probes.loaded_model import check_model, is_unchanged
from sidecar.health.probes.neighbour_probe import NeighbourProbe
from sidecar.health.probes.server_probe import ProbeContext, ServerProbe
from sidecar.health.probes.stub_probe import StubProbe
from sidecar.health.python_stubs import StubCounts
from sidecar.health.python_stubs import finding as stub_finding
from sidecar.runtime.errors import SidecarError
from sidecar.runtime.latest import Latest, first_of
from sidecar.triton.api import ModelDescription
from sidecar.triton.python_stubs_api import Stub
from sidecar.verdict.evidence import SERVER, Finding, Layer, Reason

_DESCRIBE = 10  # probes after which a model is described again in any case
# Findings about a canary's inputs and answer: they only count if the model is still the described.
_OF_DESCRIBED = frozenset(
    {
        *(Reason.CONFIG, Reason.CANARY_FAILED),
        *(Reason.CANARY_WRONG_ANSWER, Reason.CANARY_TOO_LARGE),
    }
)


@dataclass(frozen=True, slots=True)
class SharedProbes:
    """What the probes of all models of one Triton share.

    `turn` waits until another canary may be sent. `read_statistics` reads Triton's counters now.
    """

    context: ProbeContext
    server: ServerProbe
    stubs: StubProbe
    neighbours: NeighbourProbe
    turn: Callable[[], Awaitable[None]]
    read_statistics: Callable[[], Awaitable[None]]


class ModelProbe:
    """Probes one model; its loops run until cancelled.

    `described` is the model's description while it is ready, else None. `canary` probes it with
    inferences.
    """

    def __init__(self, model: str, shared: SharedProbes, proven: Proven | None = None) -> None:
        self.described: Latest[ModelDescription | None] = Latest(None)
        self.canary = CanaryProbe(
            model,
            shared.server,
            shared.context,
            shared.read_statistics,
            shared.neighbours,
            self.described,
            proven,
        )
        self._model = model
        self._server = shared.server
        self._context = shared.context
        self._turn = shared.turn
        self._read_statistics = shared.read_statistics
        self._stubs = shared.stubs
        self._probes_until_described = 0
        self._probe_now = asyncio.Event()
        self._send_now = asyncio.Event()
        self._stub_counts = StubCounts()
        self._forgotten = 0  # how often
        self._generation = 0

    def forget(self) -> None:
        """Treat the model as possibly unloaded, and probe it at once."""
        self._forgotten += 1
        self.described.set(None)
        self._probe_now.set()

    def check_now(self) -> None:
        """Probe and send a canary at once: a process that the model may need has ended."""
        self._probe_now.set()
        self._send_now.set()

    # --- ready --------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Probe periodically whether the model is ready, while the server answers."""
        assessment = self._context.assessment
        restarts = assessment.restarts.value
        while True:
            seen = await _true(self._server.answers)
            self._probe_now.clear()
            if restarts != assessment.restarts.value:
                restarts = assessment.restarts.value
                self.described.set(None)  # it may be another model
            forgotten = self._forgotten
            finding, described = await self._probe()
            if finding.ok or await self._server.still_answers():
                assessment.observe(finding)
                # One probe without an answer is no reason to abandon a canary.
                silent = finding.reason is Reason.MODEL_UNANSWERED
                conclusive = not silent or assessment.is_down(Layer.MODEL, subject=self._model)
                if conclusive and forgotten == self._forgotten:
                    self.described.set(described)
                interval = self._context.rules.value.every.model
                wakeups = self._server.answers.changed(seen), self._probe_now.wait()
                await self._context.pause((Layer.MODEL,), self._model, interval, *wakeups)
            elif assessment.is_down(Layer.PORT, Layer.LIVE, Layer.READY, subject=SERVER):
                self.described.set(None)

    async def _probe(self) -> tuple[Finding, ModelDescription | None]:
        context, timeout = self._context, self._context.rules.value.model_timeout
        began = context.clock.now()
        found, described = await check_model(
            context.triton,
            self._model,
            self.canary.version,
            timeout,
            lambda: self._describe(timeout),
        )
        if described is not None:
            await self._stubs.scanned_once()
            if await self._misses_stubs(described, self._stubs.seen):
                found = stub_finding(described)
        return replace(found, seconds=context.clock.now() - began), described

    async def _misses_stubs(
        self, described: ModelDescription, stubs: tuple[Stub, ...] | None
    ) -> bool:
        """Whether stubs of the model have died; `stubs` were seen after the model was ready.

        Before saying so, describes the model again, because it may run in fewer instances by now,
        and scans again.
        """
        self._stub_counts = self._stub_counts.after(described, stubs)
        timeout = self._context.rules.value.model_timeout
        if not self._stub_counts.missing(described, stubs) or not await is_unchanged(
            self._context.triton, described, timeout
        ):
            return False
        return self._stub_counts.missing(described, await self._stubs.scan()) > 0

    async def _describe(self, timeout: float) -> ModelDescription:
        """The description; Triton is queried after a reload of the model, and periodically."""
        self._probes_until_described -= 1
        self._check_reload()
        if self.described.value is not None and self._probes_until_described > 0:
            return self.described.value
        self._probes_until_described = _DESCRIBE
        try:
            return await self._context.triton.describe(self._model, timeout)
        except SidecarError:
            self._probes_until_described = 0  # still due
            raise

    def _check_reload(self) -> None:
        if self.canary.progress.generation != self._generation:
            self._generation = self.canary.progress.generation
            self._probes_until_described = 0
            self.canary.reloaded()

    # --- canary -------------------------------------------------------------------------------

    async def send_canaries(self) -> None:
        """Send one canary after the other while the model is ready."""
        while True:
            if self.described.value is None:
                await self.described.changed(self.described.version)
            await _true(self._server.answers)
            await self._turn()
            self._send_now.clear()
            # Read only now: the model may have changed while this loop was waiting.
            described, seen = self.described.value, self.described.version
            if described is None:
                continue
            if not await self._round(described):
                # Retry once the new description is known.
                fast = self._context.rules.value.fast_interval
                await first_of(self._context.clock, fast, self.described.changed(seen))
                continue
            wakeup, interval = self._send_now.wait(), self.canary.interval
            await self._context.pause((Layer.CANARY,), self._model, interval, wakeup)

    async def _round(self, described: ModelDescription) -> bool:
        """Send one canary, if there is one; False if the model is no longer as described."""
        self._check_reload()
        generation = self._generation
        canary, why = self.canary.choose(described)
        if canary is None:
            detail = f"{self._model}: {why}"
            finding: Finding | None = Finding(Layer.CANARY, self._model, Reason.CONFIG, detail)
        else:
            finding = await self.canary.send(canary, described)
        if finding is None:
            return True
        if finding.reason in _OF_DESCRIBED and await self._outdated(described, generation):
            return False
        failed = finding.reason is Reason.CANARY_FAILED
        if failed and await self._misses_stubs(described, await self._stubs.scan()):
            self._context.assessment.observe(stub_finding(described))  # the cause comes first
        self.canary.observe(canary, finding)
        return True

    async def _outdated(self, described: ModelDescription, generation: int) -> bool:
        """Whether the model has changed since the canary was built, or cannot be described.

        If so, probes and describes it at once.
        """
        await self._read_statistics()
        reloaded = self.canary.progress.generation != generation
        timeout = self._context.rules.value.model_timeout
        if not reloaded and await is_unchanged(self._context.triton, described, timeout):
            return False
        self._probes_until_described = 0
        self._probe_now.set()
        return True


async def _true(cell: Latest[bool]) -> int:
    """Wait until a cell holds True; returns the version of that value."""
    version, value = cell.version, cell.value
    while not value:
        version, value = await cell.changed(version)
    return version
