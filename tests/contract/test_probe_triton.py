"""The probes at work on a real Triton: who is only busy is not taken for ill."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from sidecar.clock import SystemClock
from sidecar.errors import Overloaded
from sidecar.events import Event, Probed, VerdictChanged
from sidecar.health.canary import Canary
from sidecar.health.evidence import Layer, Reason
from sidecar.health.expectations import Equals
from sidecar.health.probe import Prober
from sidecar.health.verdict import State, Verdict
from sidecar.settings.health import HealthSettings
from sidecar.triton import Triton
from sidecar.triton_api import Question
from sidecar.triton_tensors import tensor
from tests.triton_server import TritonServer

pytestmark = pytest.mark.contract
LONG = 60.0  # seconds; machines are shared
# Such that a hang would be told soon, and a machine that is slow for a moment is not taken for one.
SETTINGS = HealthSettings(stall=6.0, server_timeout=10.0, model_timeout=10.0)


RIGHT = (Equals("VALUE", (1,)),)


@dataclass
class Probing:
    """A prober at work, and what it has said."""

    door: Triton
    prober: Prober
    events: list[Event] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        return self.prober.assessment.verdict.value

    @property
    def states(self) -> set[State]:
        """Every state since it served for the first time."""
        changes = [event.after.state for event in self.events if isinstance(event, VerdictChanged)]
        served = changes.index(State.PASSING)
        return set(changes[served:])

    def found(self, model: str) -> list[Reason]:
        """What the canaries of a model have found so far."""
        findings = [
            each for event in self.events if isinstance(event, Probed) for each in event.findings
        ]
        own = [each for each in findings if each.subject == model]
        return [each.reason for each in own if each.layer is Layer.CANARY]

    async def until(self, reason: Reason) -> None:
        """Wait until the verdict has a reason."""
        async with asyncio.timeout(LONG):
            async for verdict in self.prober.assessment.verdict:
                if verdict.reason is reason:
                    return


@asynccontextmanager
async def probing(
    server: TritonServer, *models: str, settings: HealthSettings = SETTINGS
) -> AsyncIterator[Probing]:
    """A prober of some models, which have passed."""
    events: list[Event] = []
    async with Triton(server.grpc) as door:
        canaries = [Canary(name, question(name).steps, RIGHT, timeout=5.0) for name in models]
        prober = Prober(door, models, canaries, settings, SystemClock(), events.append)
        tasks = [asyncio.create_task(loop()) for loop in prober.loops().values()]
        try:
            found = Probing(door, prober, events)
            await found.until(Reason.OK)
            yield found
            assert not any(task.done() for task in tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def question(model: str, seconds: float = 0.0) -> Question:
    inputs = {
        "VALUE": tensor("INT32", [1, 1], [1]),
        "SECONDS": tensor("FP32", [1, 1], [seconds]),
    }
    return Question(model, (inputs,))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    with TritonServer.running(tmp_path_factory.mktemp("triton"), "one_queued") as one:
        yield one


@pytest.mark.parametrize("seconds", [0.3, 3.0])
async def test_a_full_queue_is_busy_and_not_ill(server: TritonServer, seconds: float) -> None:
    """Eight clients of a server that was idle, which pause for a moment after each refusal."""

    async def ask(door: Triton, answered: list[int]) -> None:
        while True:
            try:
                await door.infer(question("one_queued", seconds), LONG)
                answered.append(1)
            except Overloaded:
                answered.append(0)
                await asyncio.sleep(0.2)

    async with probing(server, "one_queued") as bench:
        answered: list[int] = []
        clients = [asyncio.create_task(ask(bench.door, answered)) for _ in range(8)]
        try:
            await bench.until(Reason.MODEL_BUSY)
            await asyncio.sleep(SETTINGS.stall)
        finally:
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
        assert 0 in answered
        assert State.CRITICAL not in bench.states
        assert Reason.CANARY_FAILED not in bench.found("one_queued")
        await bench.until(Reason.OK)
