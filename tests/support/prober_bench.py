"""A running prober with a Triton in memory and a virtual clock."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from sidecar.events import CanarySent, Event, Probed, VerdictChanged
from sidecar.health.canary.definition import Canary
from sidecar.health.canary.derived_canary import Proven
from sidecar.health.canary.expectations import Equals
from sidecar.health.probes.prober import EarlierState, Loop, ProbedTriton, Prober
from sidecar.runtime.errors import Rejected, Unavailable
from sidecar.settings.tables.health import HealthSettings
from sidecar.triton.api import (
    Answer,
    InferenceRequest,
    ModelDescription,
    Statistics,
    Tensor,
    TensorSpec,
)
from sidecar.triton.python_stubs_api import Stub, StubsApi
from sidecar.verdict.evidence import Finding, Layer, Reason
from sidecar.verdict.verdict import Verdict
from tests.support.fake_triton import FakeModel, FakeTriton
from tests.support.virtual_clock import VirtualClock

SETTINGS = HealthSettings(stall=5.0, hold=1.0, window=5)
TEXT = TensorSpec("text", "BYTES", (1,))


def says(text: str) -> Answer:
    return Answer({"text": Tensor("BYTES", np.array([text.encode()], dtype=np.object_))})


def model(name: str = "chat", **changes: object) -> FakeModel:
    described = ModelDescription(name, ("1",), inputs=(TEXT,), outputs=(TEXT,))
    return FakeModel(replace(described, **changes), reply=says("right"))  # type: ignore[arg-type]


def canary(name: str = "chat", **changes: object) -> Canary:
    found = Canary(name, (says("?").outputs,), (Equals("text", ("right",)),))
    return replace(found, **changes)  # type: ignore[arg-type]


def load_anew(found: FakeModel, **changes: object) -> None:
    """As after the model was loaded with other files: its counters begin at nothing."""
    found.description = replace(found.description, **changes)  # type: ignore[arg-type]
    version = found.description.versions[-1]
    found.statistics = Statistics(found.description.name, version)


def demanding(found: FakeModel) -> FakeModel:
    """The model, refusing what does not fit it as it is loaded, as Triton does."""
    says_so = found.reply

    def reply(request: InferenceRequest) -> Answer:
        wanted = {spec.name: spec.shape for spec in found.description.inputs}
        if {name: each.array.shape for name, each in request.steps[0].items()} != wanted:
            raise Rejected("INVALID_ARGUMENT: unexpected inputs")
        return says_so(request) if callable(says_so) else says_so

    found.reply = reply
    return found


class FakeStubs:
    """The stubs of a Triton in memory: `running`, or None where they cannot be seen."""

    def __init__(self, *running: Stub) -> None:
        self.running: tuple[Stub, ...] | None = running
        self._ended = asyncio.Event()

    def end(self, *pids: int) -> None:
        """Let some end."""
        self.running = tuple(stub for stub in self.running or () if stub.pid not in pids)
        self._ended.set()

    async def scan(self) -> tuple[Stub, ...] | None:
        self._ended.clear()
        return self.running

    async def ended(self) -> None:
        await self._ended.wait()

    def close(self) -> None:
        self._ended.clear()


@dataclass
class Bench:
    """A running prober."""

    clock: VirtualClock
    triton: FakeTriton
    prober: Prober
    events: list[Event] = field(default_factory=list)
    _stuck: dict[str, asyncio.Event] = field(default_factory=dict)

    def stick(self, call: str) -> None:
        """From now on a call to Triton does not come back, also when its deadline has passed."""
        released = self._stuck.setdefault(call, asyncio.Event())

        async def never(*_: object) -> None:
            await released.wait()
            raise Unavailable("it was stuck")

        setattr(self.triton, call, never)

    def release(self) -> None:
        """Let every call come back, and be as before."""
        while self._stuck:
            call, released = self._stuck.popitem()
            released.set()
            delattr(self.triton, call)

    @property
    def verdict(self) -> Verdict:
        return self.prober.assessment.verdict.value

    @property
    def evidence(self) -> tuple[Finding, ...]:
        return self.prober.assessment.evidence

    @property
    def said(self) -> list[str]:
        """Every state and reason since it began to be proven, one after the other."""
        changes = [event.after for event in self.events if isinstance(event, VerdictChanged)]
        said = [f"{verdict.state} {verdict.reason}" for verdict in changes]
        said = [each for each in said if each != "starting NOT_PROVEN_YET"]
        return [one for one, before in zip(said, ["", *said], strict=False) if one != before]

    def found(self, layer: Layer = Layer.CANARY) -> list[Reason]:
        """Every reason that a layer has found so far."""
        probed = [event for event in self.events if isinstance(event, Probed)]
        return [each.reason for event in probed for each in event.findings if each.layer is layer]

    @property
    def chat(self) -> FakeModel:
        return self.triton.models["chat"]

    def sent(self, name: str = "chat") -> int:
        return sum(event == CanarySent(name) for event in self.events)

    async def pass_(self, seconds: float, each: Callable[[], None] = lambda: None) -> None:
        """Let time pass, and something happen in every tenth of a second."""
        for _ in range(round(seconds * 10)):
            each()
            await self.clock.advance(0.1)


@asynccontextmanager
async def running(loops: Mapping[str, Loop]) -> AsyncIterator[None]:
    """Loops that run during the context."""
    tasks = [asyncio.create_task(loop(), name=name) for name, loop in loops.items()]
    try:
        yield
        for task in tasks:
            assert not task.done(), f"the loop {task.get_name()!r} ended: {task.exception()!r}"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def probing(
    *models: FakeModel,
    canaries: Mapping[str, Canary] | None = None,
    settings: HealthSettings = SETTINGS,
    served: Sequence[str] | None = None,
    stubs: StubsApi | None = None,
    proven: Mapping[str, Proven] | None = None,
) -> AsyncIterator[Bench]:
    """A prober that runs; every model is served, and has a canary unless other ones are given."""
    clock, events = VirtualClock(), list[Event]()
    found = models or (model(),)
    names = [each.description.name for each in found]
    given = {name: canary(name) for name in names} if canaries is None else canaries
    triton = FakeTriton(clock, *found)
    models_served = names if served is None else served
    prober = Prober(
        ProbedTriton(triton, models_served, stubs),
        given.values(),
        settings.rules,
        clock,
        events.append,
        EarlierState(proven=proven or {}),
    )
    async with running(prober.loops()):
        yield Bench(clock, triton, prober, events)
