"""The probes on a real Triton: a model that is only busy is not reported as unhealthy."""

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
# Short enough to detect a hang soon, and too long for a machine that is slow for a moment.
SETTINGS = HealthSettings(stall=6.0, server_timeout=10.0, model_timeout=10.0)


MODELS = ("one_queued", "two_seats", "counter", "two_stubs", "cached", "paused_stream")


@dataclass
class Probing:
    """A running prober, and the states that it has reported."""

    client: Triton
    prober: Prober
    events: list[Event] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        return self.prober.assessment.verdict.value

    @property
    def states(self) -> set[State]:
        """Every state since the first verdict that passes."""
        changes = [event.after.state for event in self.events if isinstance(event, VerdictChanged)]
        served = changes.index(State.PASSING)
        return set(changes[served:])

    def found(self, model: str) -> list[Reason]:
        """The findings of a model's canaries so far."""
        findings = [
            each for event in self.events if isinstance(event, Probed) for each in event.findings
        ]
        own = [each for each in findings if each.subject == model]
        return [each.reason for each in own if each.layer is Layer.CANARY]

    async def finds(self, reason: Reason, model: str) -> None:
        """Wait until a canary of the model has this finding."""
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
    """A prober of some models, all of which have passed once."""
    events: list[Event] = []
    async with Triton(server.grpc) as client:
        canaries = [canary(name) for name in models]
        stubs = Stubs(server.grpc) if sees_stubs else None
        prober = Prober(
            ProbedTriton(client, models, stubs),
            canaries,
            SETTINGS.rules,
            SystemClock(),
            events.append,
        )
        tasks = [asyncio.create_task(loop()) for loop in prober.loops().values()]
        try:
            found = Probing(client, prober, events)
            await found.until(Reason.OK)
            yield found
            assert not any(task.done() for task in tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def request_of(model: str, seconds: float = 0.0) -> InferenceRequest:
    inputs = {
        "VALUE": tensor("INT32", [1, 1], [1]),
        "SECONDS": tensor("FP32", [1, 1], [seconds]),
    }
    stateful, decoupled = model in ("two_seats", "counter"), model == "paused_stream"
    return InferenceRequest(model, (inputs,), stateful=stateful, decoupled=decoupled)


def canary(model: str) -> Canary:
    right = Equals({"counter": "SUM", "relay": "ANSWER"}.get(model, "VALUE"), (1,))
    # A number that is not 0 can be varied for a response cache.
    return Canary(model, request_of(model, 0.01).steps, (right,), timeout=5.0)


@asynccontextmanager
async def open_sequences(server: TritonServer, model: str, *numbers: int) -> AsyncIterator[None]:
    """Open sequences whose clients send nothing until the context ends, and then end them."""
    [step] = request_of(model).steps
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
async def clients(client: Triton, many: int, asked: InferenceRequest) -> AsyncIterator[list[int]]:
    """Concurrent clients in a closed loop; 1 for each answer, 0 for each rejection under load."""
    heard: list[int] = []

    async def ask() -> None:
        while True:
            try:
                await client.infer(asked, LONG)
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
async def test_a_model_with_a_full_queue_is_busy_and_not_unhealthy(
    server: TritonServer, seconds: float
) -> None:
    """Eight clients of a server that was idle; each pauses for a moment after a rejection."""
    async with probing(server, "one_queued") as bench:
        async with clients(bench.client, 8, request_of("one_queued", seconds)) as answered:
            await bench.until(Reason.MODEL_BUSY)
            await asyncio.sleep(SETTINGS.stall)
        assert 0 in answered
        assert State.CRITICAL not in bench.states
        assert Reason.CANARY_FAILED not in bench.found("one_queued")
        await bench.until(Reason.OK)


@pytest.mark.parametrize(
    ("model", "slots"), [("two_seats", 2), pytest.param("counter", 1, marks=soak)]
)
async def test_sequence_slots_held_by_silent_clients_are_busy_and_not_hung(
    server: TritonServer, model: str, slots: int
) -> None:
    async with probing(server, model) as bench:
        async with open_sequences(server, model, *range(1, slots + 1)):
            await bench.finds(Reason.MODEL_BUSY, model)
            await asyncio.sleep(SETTINGS.stall)
            assert bench.verdict.state is State.WARNING
        assert State.CRITICAL not in bench.states
        await bench.until(Reason.OK)


async def test_a_sequence_model_is_hung_if_no_client_can_hold_its_slots(
    server: TritonServer,
) -> None:
    """One inference takes far longer than usual, and no other client has sent a request."""
    async with probing(server, "two_seats") as bench:
        endless = request_of("two_seats", 4 * SETTINGS.stall)
        client = asyncio.create_task(bench.client.infer(endless, LONG))
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
    """Triton with a rate limiter, which gives one model the shared resource far more often."""
    models, limit = ("takes_seat", "waits_for_seat"), "--rate-limit=execution_count"
    folder = tmp_path_factory.mktemp("limiting")
    with TritonServer.running(folder, *models, options=(limit,)) as one:
        yield one


async def test_an_ensemble_whose_step_has_a_full_queue_is_busy_and_not_hung(
    relaying: TritonServer,
) -> None:
    """Clients send requests to the step; only the sidecar sends any to the ensemble."""
    async with probing(relaying, "relay", sees_stubs=False) as bench:
        async with clients(bench.client, 8, request_of("one_queued", 3.0)) as answered:
            await bench.until(Reason.MODEL_BUSY)
            await asyncio.sleep(times(1, soaking=3) * SETTINGS.stall)
        assert 0 in answered
        assert State.CRITICAL not in bench.states
        await bench.until(Reason.OK)


async def test_an_ensemble_whose_step_hangs_is_hung(relaying: TritonServer) -> None:
    async with (
        probing(relaying, "relay", sees_stubs=False) as bench,
        clients(bench.client, 2, request_of("two_stubs", 8 * SETTINGS.stall)),
    ):
        await bench.until(Reason.MODEL_HUNG)


async def test_a_model_that_waits_for_others_is_busy_while_those_finish_requests(
    limiting: TritonServer,
) -> None:
    async with probing(limiting, "waits_for_seat", sees_stubs=False) as bench:
        async with clients(bench.client, 4, request_of("takes_seat", 1.0)):
            await bench.finds(Reason.MODEL_BUSY, "waits_for_seat")
            await asyncio.sleep(SETTINGS.stall)
        assert State.CRITICAL not in bench.states
        await bench.until(Reason.OK)


async def test_a_model_that_waits_for_a_hung_model_is_hung(limiting: TritonServer) -> None:
    async with (
        probing(limiting, "waits_for_seat", sees_stubs=False) as bench,
        clients(bench.client, 1, request_of("takes_seat", 8 * SETTINGS.stall)),
    ):
        await bench.until(Reason.MODEL_HUNG)


async def stubs_of(server: TritonServer, model: str) -> list[int]:
    found = await Stubs(server.grpc).scan()
    assert found is not None
    return sorted(stub.pid for stub in found if stub.runs(model))


async def test_the_stubs_of_each_model_are_found_and_the_end_of_one_is_noticed(
    server: TritonServer,
) -> None:
    counts = {model: len(await stubs_of(server, model)) for model in MODELS}
    assert counts == {**dict.fromkeys(MODELS, 1), "two_stubs": 2}
    stubs = Stubs(server.grpc)
    async with Triton(server.grpc) as client:
        described = await client.describe("two_stubs", LONG)
        assert (described.instances, described.versions) == (2, ("1",))
        try:
            await stubs.scan()
            await client.unload_model("two_stubs", LONG)
            async with asyncio.timeout(LONG):
                await stubs.ended()
            assert len(await stubs_of(server, "one_queued")) == 1
        finally:
            stubs.close()
            await client.load_model("two_stubs", LONG)


async def test_without_access_to_tritons_processes_the_stubs_are_unknown(
    server: TritonServer,
) -> None:
    port = server.grpc.rpartition(":")[2]
    for elsewhere in (f"192.0.2.1:{port}", "127.0.0.1:1"):
        assert await Stubs(elsewhere).scan() is None


@pytest.mark.parametrize("dead", [1, pytest.param(2, marks=soak)])
async def test_dead_stubs_are_noticed_even_if_canaries_pass(
    server: TritonServer, dead: int
) -> None:
    async with probing(server, "two_stubs") as bench:
        for pid in (await stubs_of(server, "two_stubs"))[:dead]:
            os.kill(pid, signal.SIGKILL)
        await bench.until(Reason.MODEL_STUB_DIED)
        await bench.client.unload_model("two_stubs", LONG)
        await bench.until(Reason.MODEL_NOT_READY)
        await bench.client.load_model("two_stubs", LONG)
        await bench.until(Reason.OK)


@pytest.mark.parametrize("dies", [True, False])
async def test_a_stuck_stream_survives_a_reload_of_its_model(
    server: TritonServer, dies: bool
) -> None:
    """So its clients must be disconnected: no request to Triton ends the stream."""
    async with Triton(server.grpc) as client:
        stuck = asyncio.create_task(client.infer(request_of("paused_stream", 600.0), 600.0))
        async with asyncio.timeout(LONG):
            while not any(
                each.model == "paused_stream" and each.executions
                for each in await client.statistics(LONG)
            ):
                await asyncio.sleep(0.1)
        for stub in await stubs_of(server, "paused_stream") if dies else ():
            os.kill(stub, signal.SIGKILL)
        await client.unload_model("paused_stream", LONG)
        await client.load_model("paused_stream", LONG)
        await client.infer(request_of("paused_stream"), LONG)
        assert not stuck.done()
        stuck.cancel()
        await asyncio.gather(stuck, return_exceptions=True)


async def test_a_dead_model_is_noticed_behind_a_response_cache(server: TritonServer) -> None:
    async with probing(server, "cached", sees_stubs=False) as bench:
        asked = request_of("cached")
        await bench.client.infer(asked, LONG)
        [stub] = await stubs_of(server, "cached")
        os.kill(stub, signal.SIGKILL)
        await bench.until(Reason.CANARY_FAILED)
        # Triton answers a repeated request from its cache, and counts no execution.
        before = await counters(bench.client, "cached")
        await bench.client.infer(asked, LONG)
        async with asyncio.timeout(LONG):  # the counters change a moment after the answer
            while (after := await counters(bench.client, "cached")).cached == before.cached:
                await asyncio.sleep(0.01)
        assert after.executions == before.executions


async def counters(client: Triton, model: str) -> Statistics:
    [found] = [each for each in await client.statistics(LONG) if each.model == model]
    return found
