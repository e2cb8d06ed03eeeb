"""The probing loop: asks one Triton in layers, has the findings weighed, sets the verdict."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from sidecar.clock import Clock
from sidecar.errors import SidecarError
from sidecar.events import Hook, Probed, VerdictChanged
from sidecar.health import verdict as verdicts
from sidecar.health.expectations import AllClose, Equals, Expectation, judge
from sidecar.health.verdict import SERVER, Finding, Reason, Rules, State, Verdict
from sidecar.latest import Latest, first_of
from sidecar.settings.canary import CanarySettings
from sidecar.settings.health import HealthSettings
from sidecar.triton import DeadlineExceeded, ModelDescription, Tensor, Triton, tensor


@dataclass(frozen=True)
class Canary:
    """One inference with a known answer."""

    model: str
    inputs: Mapping[str, Tensor]
    expectations: tuple[Expectation, ...]
    timeout: float

    @classmethod
    def of(cls, model: str, settings: CanarySettings) -> "Canary":
        """The canary that the settings describe."""
        return cls(
            model=model,
            inputs={
                given.name: tensor(given.datatype, given.shape, given.data)
                for given in settings.inputs
            },
            expectations=tuple(
                Equals(wanted.output, wanted.equals)
                if wanted.equals is not None
                else AllClose(wanted.output, wanted.allclose or (), wanted.atol, wanted.rtol)
                for wanted in settings.expect
            ),
            timeout=settings.timeout,
        )


@dataclass(frozen=True, slots=True)
class Identity:
    """What is served: Triton's version and the models as it describes them."""

    triton_version: str = ""
    models: tuple[ModelDescription, ...] = ()


class Prober:
    """Probes until it is cancelled; `verdict` and `identity` hold what it knows now."""

    def __init__(
        self,
        triton: Triton,
        canaries: Sequence[Canary],
        settings: HealthSettings,
        clock: Clock,
        hook: Hook,
    ) -> None:
        self.verdict: Latest[Verdict] = Latest(replace(verdicts.UNPROVEN, at=clock.now()))
        self.identity: Latest[Identity] = Latest(Identity())
        self._triton = triton
        self.configure(canaries, settings)
        self._clock = clock
        self._hook = hook
        self._described: dict[str, ModelDescription] = {}

    def configure(self, canaries: Sequence[Canary], settings: HealthSettings) -> None:
        """Probe with these from the next round on; the models have to be the same ones."""
        self._canaries = canaries
        self._settings = settings
        self._rules = Rules(settings.rise, settings.fall, settings.grace)

    def drain(self, why: str) -> None:
        """Withdraw: NOT_SERVING from now on, whatever the probes say."""
        self._set(verdicts.draining(self.verdict.value, why, self._clock.now()))

    async def run(self) -> None:
        """Probe for ever."""
        history = verdicts.begin([canary.model for canary in self._canaries], self._clock.now())
        while True:
            began = self._clock.now()
            evidence = await self._round()
            ended = self._clock.now()
            self._hook(Probed(evidence, ended - began))
            history, verdict = verdicts.assess(history, evidence, self._rules, ended)
            if self.verdict.value.state is not State.DRAINING:
                self._set(verdict)
            pause = self._settings.interval if history.settled else self._settings.fast_interval
            await self._pause(pause - (ended - began))

    def _set(self, verdict: Verdict) -> None:
        before = self.verdict.value
        self.verdict.set(verdict)
        if verdict != before:
            self._hook(VerdictChanged(before, verdict))

    async def _pause(self, seconds: float) -> None:
        """Sleep, but wake as soon as the connection to Triton breaks."""
        pause = self._clock.jitter(seconds, 0.1)
        await first_of(self._clock, pause, self._triton.disconnected())

    async def _round(self) -> tuple[Finding, ...]:
        """Layer by layer; one that fails leaves those above it unasked."""
        settings, triton = self._settings, self._triton
        server = []
        for layer, reason, question in (
            ("port", Reason.PORT_UNREACHABLE, lambda: triton.connect(settings.port_timeout)),
            ("live", Reason.SERVER_NOT_LIVE, lambda: triton.server_live(settings.server_timeout)),
            (
                "ready",
                Reason.SERVER_NOT_READY,
                lambda: triton.server_ready(settings.server_timeout),
            ),
        ):
            server.append(await self._ask(layer, SERVER, reason, question))
            if not server[-1].ok:
                self._described.clear()
                return tuple(server)
        models = await asyncio.gather(*map(self._model, self._canaries))
        await self._identify()
        return (*server, *(finding for findings in models for finding in findings))

    async def _model(self, canary: Canary) -> list[Finding]:
        timeout = self._settings.model_timeout
        ready = await self._ask(
            "model",
            canary.model,
            Reason.MODEL_NOT_READY,
            lambda: self._triton.model_ready(canary.model, timeout),
        )
        if not ready.ok:
            self._described.pop(canary.model, None)
            return [ready]
        began = self._clock.now()
        reason, detail = await self._infer(canary)
        seconds = self._clock.now() - began
        return [ready, Finding("canary", canary.model, reason, detail, seconds)]

    async def _infer(self, canary: Canary) -> tuple[Reason, str]:
        """Ask the canary its question and judge the answer."""
        try:
            outputs = await self._triton.infer(
                canary.model,
                canary.inputs,
                canary.timeout,
                decoupled=(await self._describe(canary.model)).decoupled,
            )
        except DeadlineExceeded:
            return Reason.CANARY_TIMEOUT, f"{canary.model}: no answer within {canary.timeout:g} s"
        except SidecarError as error:
            return Reason.CANARY_FAILED, f"{canary.model}: {error}"
        fault = judge(canary.expectations, outputs)
        if fault:
            return Reason.CANARY_WRONG_ANSWER, f"{canary.model}: {fault}"
        return Reason.OK, ""

    async def _ask(
        self, layer: str, subject: str, reason: Reason, question: Callable[[], Awaitable[object]]
    ) -> Finding:
        began = self._clock.now()
        try:
            answer = await question()
            detail = "Triton says no" if answer is False else ""
        except SidecarError as error:
            detail = str(error)
        seconds = self._clock.now() - began
        if not detail:
            return Finding(layer, subject, Reason.OK, "", seconds)
        return Finding(layer, subject, reason, f"{subject or layer}: {detail}", seconds)

    async def _describe(self, model: str) -> ModelDescription:
        """The description of a model, asked anew once the model or the server was away."""
        if model not in self._described:
            timeout = self._settings.model_timeout
            self._described[model] = await self._triton.describe(model, timeout)
        return self._described[model]

    async def _identify(self) -> None:
        """Note what is served, when every model is described and it is another set than before."""
        described = tuple(self._described[name] for name in sorted(self._described))
        if len(described) < len(self._canaries) or described == self.identity.value.models:
            return
        try:
            version = await self._triton.server_version(self._settings.server_timeout)
        except SidecarError:
            return  # the next round sees that the server is gone, and says so
        self.identity.set(Identity(version, described))
