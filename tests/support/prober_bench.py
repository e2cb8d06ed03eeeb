"""A running prober, with an in-memory Triton and a virtual clock."""

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
    """Reload the model as with other files: its counters restart at zero."""
    found.description = replace(found.description, **changes)  # type: ignore[arg-type]
    version = found.description.versions[-1]
    found.statistics = Statistics(found.description.name, version)


def demanding(found: FakeModel) -> FakeModel:
    """A model that rejects requests that do not match its metadata, as Triton does."""
    says_so = found.reply

    def reply(request: InferenceRequest) -> Answer:
        wanted = {spec.name: spec.shape for spec in found.description.inputs}
        if {name: each.array.shape for name, each in request.steps[0].items()} != wanted:
            raise Rejected("INVALID_ARGUMENT: unexpected inputs")
        return says_so(request) if callable(says_so) else says_so

    found.reply = reply
    return found


class FakeStubs:
    """The Python stubs of the in-memory Triton: `running`, or None if they cannot be scanned."""

    def __init__(self, *running: Stub) -> None:
        self.running: tuple[Stub, ...] | None = running
        self._ended = asyncio.Event()

    def end(self, *pids: int) -> None:
        """End some of them."""
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
        """From now on a call to Triton never returns, not even after its deadline."""
        released = self._stuck.setdefault(call, asyncio.Event())

        async def never(*_: object) -> None:
            await released.wait()
            raise Unavailable("it was stuck")

        setattr(self.triton, call, never)

    def release(self) -> None:
        """Let every call return again."""
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
    def verdicts(self) -> list[str]:
        """Every state and reason without those before the models are proven, in order."""
        changes = [event.after for event in self.events if isinstance(event, VerdictChanged)]
        found = [f"{verdict.state} {verdict.reason}" for verdict in changes]
        found = [each for each in found if each != "starting NOT_PROVEN_YET"]
        return [one for one, before in zip(found, ["", *found], strict=False) if one != before]

    def found(self, layer: Layer = Layer.CANARY) -> list[Reason]:
        """Every reason of a layer's findings so far."""
        probed = [event for event in self.events if isinstance(event, Probed)]
        return [each.reason for event in probed for each in event.findings if each.layer is layer]

    @property
    def chat(self) -> FakeModel:
        return self.triton.models["chat"]

    def sent(self, name: str = "chat") -> int:
        return sum(event == CanarySent(name) for event in self.events)

    async def pass_(self, seconds: float, each: Callable[[], None] = lambda: None) -> None:
        """Let time pass, and call `each` every tenth of a second."""
        for _ in range(round(seconds * 10)):
            each()
            await self.clock.advance(0.1)


@asynccontextmanager
async def running(loops: Mapping[str, Loop]) -> AsyncIterator[None]:
    """Run loops during the context."""
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
    """Run a prober; every model is served and, unless `canaries` are given, has a canary."""
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
