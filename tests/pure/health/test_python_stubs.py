"""The processes that run models: which are missing, and how a prober reacts."""

import asyncio
from dataclasses import replace

import pytest

from sidecar.health.python_stubs import StubCounts
from sidecar.runtime.errors import Rejected
from sidecar.triton.api import ModelDescription
from sidecar.triton.python_stubs_api import Stub
from sidecar.verdict.evidence import Reason
from sidecar.verdict.verdict_line import State
from tests.support.prober_bench import SETTINGS, FakeStubs, load_anew, model, probing

TWO = ModelDescription("chat", ("1",), instances=2)
A, B = Stub(7, "chat", "chat_0_0"), Stub(8, "chat", "chat_0_1")
READS = Stub(9, "chat", "chat")  # it only reads the configuration
OTHER = Stub(10, "embed", "embed_0_0")


@pytest.mark.parametrize(
    ("stub", "runs"),
    [
        (A, True),
        (READS, False),
        (OTHER, False),
        (Stub(1, "chat", "any name"), True),
        (Stub(1, "", "chat_0_0"), True),
        (Stub(1, "", "chat_0_gpu1"), True),
        (Stub(1, "", "chat_large_0_0"), False),
        (Stub(1, "", "chat"), False),
        (Stub(1, "embed", "chat_0_0"), False),
    ],
)
def test_which_processes_are_stubs_of_a_model(stub: Stub, runs: bool) -> None:
    assert stub.runs("chat") is runs


@pytest.mark.parametrize(
    ("before", "described", "now", "missing"),
    [
        ((A, B), TWO, (A, B), 0),
        ((A, B), TWO, (A,), 1),
        ((A, B), TWO, (), 2),
        ((A, B), TWO, (A, Stub(11, *B[1:])), 0),
        ((A,), TWO, (A,), 0),
        ((A,), TWO, (), 0),
        (None, TWO, (A,), 0),
        ((A, B), TWO, None, 0),
        ((A, B, READS), TWO, (A, READS), 1),
        ((A, B), replace(TWO, instances=1), (A,), 0),
        ((A, B), replace(TWO, versions=("2",)), (A,), 0),
        ((A, B), replace(TWO, instances=0), (), 0),
    ],
    ids=[
        "all there",
        "one died",
        "both died",
        "one was restarted",
        "never seen complete",
        "never seen complete, and gone",
        "not seen before",
        "not seen now",
        "one is read, and one died",
        "it runs in fewer instances",
        "another version",
        "a backend without stubs",
    ],
)
def test_which_stubs_are_missing(
    before: tuple[Stub, ...] | None,
    described: ModelDescription,
    now: tuple[Stub, ...] | None,
    missing: int,
) -> None:
    assert StubCounts().after(TWO, before).after(described, now).missing(described, now) == missing


async def test_one_dead_stub_of_two_is_reported_at_once_though_every_canary_passes() -> None:
    stubs = FakeStubs(A, B, OTHER)
    async with probing(model(instances=2), stubs=stubs) as bench:
        await bench.pass_(5)
        stubs.end(8)
        await bench.pass_(0.3)
        assert bench.verdict.summary == (
            "CRITICAL MODEL_STUB_DIED: chat: not all of its 2 stub processes are alive"
        )
        await bench.pass_(60)
        assert bench.verdict.reason is Reason.MODEL_STUB_DIED
        stubs.running = (A, Stub(11, "chat", "chat_0_1"), OTHER)
        await bench.pass_(65)
        assert bench.verdict.state is State.PASSING


async def test_dead_stubs_are_named_as_the_cause_even_if_a_canary_failed_first() -> None:
    """The canary may fail before the end of the process is noticed."""

    class Quiet(FakeStubs):
        async def ended(self) -> None:
            await asyncio.Event().wait()

    stubs = Quiet(A, B)
    settings = SETTINGS.model_copy(update={"model_interval": 30.0})
    async with probing(model(instances=2), stubs=stubs, settings=settings) as bench:
        await bench.pass_(60)
        sent = bench.sent()
        stubs.end(7, 8)
        bench.chat.error = Rejected("INTERNAL: Stub process 'chat_0_0' is not healthy.")
        await bench.pass_(60)
        assert bench.sent() > sent
        assert bench.verdicts[:2] == ["passing OK", "critical MODEL_STUB_DIED"]


async def test_the_end_of_another_model_s_stub_triggers_a_canary_at_once() -> None:
    stubs = FakeStubs(A, B, OTHER)
    async with probing(model(instances=2), stubs=stubs) as bench:
        await bench.pass_(5)
        sent = bench.sent()
        stubs.end(10)
        await bench.pass_(0.2)
        assert bench.sent() > sent
        await bench.pass_(5)
        assert bench.verdicts == ["passing OK"]


async def test_stubs_that_end_with_their_model_or_become_unreadable_prove_nothing() -> None:
    stubs = FakeStubs(A, B)
    async with probing(model(instances=2), stubs=stubs) as bench:
        await bench.pass_(5)
        stubs.running = None
        await bench.pass_(5)
        stubs.running = (A, B)
        await bench.pass_(5)
        load_anew(bench.chat, instances=1)  # Triton has already begun to end the stub
        stubs.end(8)
        await bench.pass_(5)
        assert bench.verdicts == ["passing OK"]
        bench.chat.ready = False
        stubs.end(7)
        await bench.pass_(5)
        assert bench.verdict.reason is Reason.MODEL_NOT_READY


async def test_a_stub_that_dies_at_once_was_seen_before_the_model_is_proven() -> None:
    """However long the first scan takes, which a busy machine may delay."""

    class Slow(FakeStubs):
        began, go_on = asyncio.Event(), asyncio.Event()

        async def scan(self) -> tuple[Stub, ...] | None:
            found = await super().scan()
            self.began.set()
            await self.go_on.wait()
            return found

    stubs = Slow(A, B)
    async with probing(model(instances=2), stubs=stubs) as bench:
        await stubs.began.wait()
        await bench.pass_(2)
        assert bench.verdicts == []
        stubs.end(7, 8)
        stubs.go_on.set()
        bench.chat.error = Rejected("INTERNAL: Stub process 'chat_0_0' is not healthy.")
        await bench.pass_(5)
        assert bench.verdict.reason is Reason.MODEL_STUB_DIED
