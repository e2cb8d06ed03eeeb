"""The probes at work on a real Triton: who is only busy is not taken for ill."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
from tritonclient.grpc.aio import InferenceServerClient, InferInput

from sidecar.events import Event, Probed, VerdictChanged
from sidecar.health.canary.definition import Canary
from sidecar.health.canary.expectations import Equals
from sidecar.health.probes.prober import ProbedTriton, Prober
from sidecar.local.programs import parts
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.errors import Overloaded
from sidecar.settings.tables.health import HealthSettings
from sidecar.triton.api import InferenceRequest, Statistics
from sidecar.triton.client import Triton
from sidecar.triton.python_stubs import Stubs
from sidecar.triton.tensors import tensor
from sidecar.verdict.evidence import Layer, Reason
from sidecar.verdict.verdict import Verdict
from sidecar.verdict.verdict_line import State
from tests.support.soak import soak, times
from tests.support.triton_server import TritonServer

pytestmark = pytest.mark.contract
LONG = 60.0  # seconds; machines are shared
# Such that a hang would be told soon, and a machine that is slow for a moment is not taken for one.
SETTINGS = HealthSettings(stall=6.0, server_timeout=10.0, model_timeout=10.0)


MODELS = ("one_queued", "two_seats", "counter", "two_stubs", "cached", "paused_stream")


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

    async def finds(self, reason: Reason, model: str) -> None:
        """Wait until the canaries of a model have found something."""
        async with asyncio.timeout(LONG):
            while reason not in self.found(model):
                await asyncio.sleep(0.1)

    async def until(self, reason: Reason) -> None:
        """Wait until the verdict has a reason."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LONG):
                async for verdict in self.prober.assessment.verdict:
                    if verdict.reason is reason:
                        return
        raise AssertionError(f"expected {reason}, found {self.verdict.summary}")


@asynccontextmanager
async def probing(
    server: TritonServer, *models: str, sees_stubs: bool = True
) -> AsyncIterator[Probing]:
    """A prober of some models, which have passed."""
    events: list[Event] = []
    async with Triton(server.grpc) as door:
        canaries = [canary(name) for name in models]
        stubs = Stubs(server.grpc) if sees_stubs else None
        prober = Prober(
            ProbedTriton(door, models, stubs),
            canaries,
            SETTINGS.rules,
            SystemClock(),
            events.append,
        )
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


def question(model: str, seconds: float = 0.0) -> InferenceRequest:
    inputs = {
        "VALUE": tensor("INT32", [1, 1], [1]),
        "SECONDS": tensor("FP32", [1, 1], [seconds]),
    }
    stateful, decoupled = model in ("two_seats", "counter"), model == "paused_stream"
    return InferenceRequest(model, (inputs,), stateful=stateful, decoupled=decoupled)


def canary(model: str) -> Canary:
    right = Equals({"counter": "SUM", "relay": "ANSWER"}.get(model, "VALUE"), (1,))
    # A number that is not 0 can be varied for a response cache.
    return Canary(model, question(model, 0.01).steps, (right,), timeout=5.0)


@asynccontextmanager
async def open_sequences(server: TritonServer, model: str, *numbers: int) -> AsyncIterator[None]:
    """Sequences of clients that are silent until the context ends; then they end them well."""
    [step] = question(model).steps
    inputs = [InferInput(name, each.array.shape, each.datatype) for name, each in step.items()]
    for given, each in zip(inputs, step.values(), strict=True):
        given.set_data_from_numpy(each.array)
    async with InferenceServerClient(server.grpc) as client:
        for number in numbers:
            await client.infer(model, inputs, sequence_id=number, sequence_start=True)
        yield
        for number in numbers:
            await client.infer(model, inputs, sequence_id=number, sequence_end=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    caches = parts.triton().backends.parent / "caches"
    options = f"--cache-directory={caches}", "--cache-config=local,size=1048576"
    with TritonServer.running(tmp_path_factory.mktemp("triton"), *MODELS, options=options) as one:
        yield one


@asynccontextmanager
async def clients(door: Triton, many: int, asked: InferenceRequest) -> AsyncIterator[list[int]]:
    """So many at once that ask again and again; 1 for each answer, 0 for each refusal for load."""
    heard: list[int] = []

    async def ask() -> None:
        while True:
            try:
                await door.infer(asked, LONG)
                heard.append(1)
            except Overloaded:
                heard.append(0)
                await asyncio.sleep(0.2)

    tasks = [asyncio.create_task(ask()) for _ in range(many)]
    try:
        yield heard
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("seconds", [0.3, pytest.param(3.0, marks=soak)])
async def test_a_full_queue_is_busy_and_not_unhealthy(server: TritonServer, seconds: float) -> None:
    """Eight clients of a server that was idle, which pause for a moment after each refusal."""
    async with probing(server, "one_queued") as bench:
        async with clients(bench.door, 8, question("one_queued", seconds)) as answered:
            await bench.until(Reason.MODEL_BUSY)
            await asyncio.sleep(SETTINGS.stall)
        assert 0 in answered
        assert State.CRITICAL not in bench.states
        assert Reason.CANARY_FAILED not in bench.found("one_queued")
        await bench.until(Reason.OK)


@pytest.mark.parametrize(
    ("model", "slots"), [("two_seats", 2), pytest.param("counter", 1, marks=soak)]
)
async def test_slots_that_silent_clients_hold_are_busy_and_not_hung(
    server: TritonServer, model: str, slots: int
) -> None:
    async with probing(server, model) as bench:
        async with open_sequences(server, model, *range(1, slots + 1)):
            await bench.finds(Reason.MODEL_BUSY, model)
            await asyncio.sleep(SETTINGS.stall)
            assert bench.verdict.state is State.WARNING
        assert State.CRITICAL not in bench.states
        await bench.until(Reason.OK)


async def test_a_hanging_sequence_model_is_hung_where_no_client_can_hold_its_slots(
    server: TritonServer,
) -> None:
    """One inference takes far longer than any honest one, and nobody else has asked before."""
    async with probing(server, "two_seats") as bench:
        endless = question("two_seats", 4 * SETTINGS.stall)
        client = asyncio.create_task(bench.door.infer(endless, LONG))
        await bench.until(Reason.MODEL_HUNG)
        await client
        await bench.until(Reason.OK)


@pytest.fixture(scope="module")
def relaying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("relaying")
    with TritonServer.running(folder, "one_queued", "two_stubs", "relay") as one:
        yield one


@pytest.fixture(scope="module")
def limiting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """Triton limits rates, and one model is given far more often what both need."""
    models, limit = ("takes_seat", "waits_for_seat"), "--rate-limit=execution_count"
    folder = tmp_path_factory.mktemp("limiting")
    with TritonServer.running(folder, *models, options=(limit,)) as one:
        yield one


async def test_an_ensemble_whose_step_has_a_full_queue_is_busy_and_not_hung(
    relaying: TritonServer,
) -> None:
    """Clients ask the step, and nobody but the sidecar the ensemble."""
    async with probing(relaying, "relay", sees_stubs=False) as bench:
        async with clients(bench.door, 8, question("one_queued", 3.0)) as answered:
            await bench.until(Reason.MODEL_BUSY)
            await asyncio.sleep(times(1, soaking=3) * SETTINGS.stall)
        assert 0 in answered
        assert State.CRITICAL not in bench.states
        await bench.until(Reason.OK)


async def test_an_ensemble_whose_step_hangs_is_hung(relaying: TritonServer) -> None:
    async with (
        probing(relaying, "relay", sees_stubs=False) as bench,
        clients(bench.door, 2, question("two_stubs", 8 * SETTINGS.stall)),
    ):
        await bench.until(Reason.MODEL_HUNG)


async def test_a_model_held_up_by_others_is_busy_while_they_finish(
    limiting: TritonServer,
) -> None:
    async with probing(limiting, "waits_for_seat", sees_stubs=False) as bench:
        async with clients(bench.door, 4, question("takes_seat", 1.0)):
            await bench.finds(Reason.MODEL_BUSY, "waits_for_seat")
            await asyncio.sleep(SETTINGS.stall)
        assert State.CRITICAL not in bench.states
        await bench.until(Reason.OK)


async def test_a_model_held_up_by_a_hung_model_is_hung(limiting: TritonServer) -> None:
    async with (
        probing(limiting, "waits_for_seat", sees_stubs=False) as bench,
        clients(bench.door, 1, question("takes_seat", 8 * SETTINGS.stall)),
    ):
        await bench.until(Reason.MODEL_HUNG)


async def stubs_of(server: TritonServer, model: str) -> list[int]:
    found = await Stubs(server.grpc).scan()
    assert found is not None
    return sorted(stub.pid for stub in found if stub.runs(model))


async def test_the_stubs_of_each_model_are_seen_and_when_one_ends(server: TritonServer) -> None:
    counts = {model: len(await stubs_of(server, model)) for model in MODELS}
    assert counts == {**dict.fromkeys(MODELS, 1), "two_stubs": 2}
    stubs = Stubs(server.grpc)
    async with Triton(server.grpc) as door:
        described = await door.describe("two_stubs", LONG)
        assert (described.instances, described.versions) == (2, ("1",))
        try:
            await stubs.scan()
            await door.unload_model("two_stubs", LONG)
            async with asyncio.timeout(LONG):
                await stubs.ended()
            assert len(await stubs_of(server, "one_queued")) == 1
        finally:
            stubs.close()
            await door.load_model("two_stubs", LONG)


async def test_where_triton_s_processes_cannot_be_seen_nothing_is_known(
    server: TritonServer,
) -> None:
    port = server.grpc.rpartition(":")[2]
    for elsewhere in (f"192.0.2.1:{port}", "127.0.0.1:1"):
        assert await Stubs(elsewhere).scan() is None


@pytest.mark.parametrize("dead", [1, pytest.param(2, marks=soak)])
async def test_dead_stubs_are_seen_though_canaries_may_pass(
    server: TritonServer, dead: int
) -> None:
    async with probing(server, "two_stubs") as bench:
        for pid in (await stubs_of(server, "two_stubs"))[:dead]:
            os.kill(pid, signal.SIGKILL)
        await bench.until(Reason.MODEL_STUB_DIED)
        await bench.door.unload_model("two_stubs", LONG)
        await bench.until(Reason.MODEL_NOT_READY)
        await bench.door.load_model("two_stubs", LONG)
        await bench.until(Reason.OK)


@pytest.mark.parametrize("dies", [True, False])
async def test_a_stream_that_is_stuck_outlives_every_load_of_its_model(
    server: TritonServer, dies: bool
) -> None:
    """So who waits has to be cut off: nothing that Triton is asked ends it."""
    async with Triton(server.grpc) as door:
        stuck = asyncio.create_task(door.infer(question("paused_stream", 600.0), 600.0))
        async with asyncio.timeout(LONG):
            while not any(
                each.model == "paused_stream" and each.executions
                for each in await door.statistics(LONG)
            ):
                await asyncio.sleep(0.1)
        for stub in await stubs_of(server, "paused_stream") if dies else ():
            os.kill(stub, signal.SIGKILL)
        await door.unload_model("paused_stream", LONG)
        await door.load_model("paused_stream", LONG)
        await door.infer(question("paused_stream"), LONG)
        assert not stuck.done()
        stuck.cancel()
        await asyncio.gather(stuck, return_exceptions=True)


async def test_a_response_cache_hides_no_dead_model(server: TritonServer) -> None:
    async with probing(server, "cached", sees_stubs=False) as bench:
        asked = question("cached")
        await bench.door.infer(asked, LONG)
        [stub] = await stubs_of(server, "cached")
        os.kill(stub, signal.SIGKILL)
        await bench.until(Reason.CANARY_FAILED)
        # Triton itself answers what it was asked before, and counts no execution.
        before = await counters(bench.door, "cached")
        await bench.door.infer(asked, LONG)
        async with asyncio.timeout(LONG):  # it counts a moment after the answer
            while (after := await counters(bench.door, "cached")).cached == before.cached:
                await asyncio.sleep(0.01)
        assert after.executions == before.executions


async def counters(door: Triton, model: str) -> Statistics:
    [found] = [each for each in await door.statistics(LONG) if each.model == model]
    return found
