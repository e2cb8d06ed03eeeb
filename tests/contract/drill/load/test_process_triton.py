"""A load on a real Triton: the demo models, and canaries as questions."""

import asyncio
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from sidecar.drill.load.process import Asked, Place, RunningLoad, load
from sidecar.drill.load.spec import ClosedLoop, OpenLoop
from sidecar.drill.misbehaving_models import STREAM as STREAM_FAULTY
from sidecar.drill.misbehaving_models import UNARY as UNARY_FAULTY
from sidecar.health.canary.definition import Canary
from sidecar.health.canary.expectations import Equals
from sidecar.local.meshfile import write_whole
from sidecar.runtime.errors import ConfigError, Unavailable
from sidecar.triton.tensors import tensor
from tests.support.triton_server import TritonServer

INSTANCE = "triton-7"
UNARY = Canary(
    "tinychat_unary",
    (
        {
            "text_input": tensor("BYTES", [1], ["Hello"]),
            "sampling_parameters": tensor("BYTES", [1], ['{"max_tokens": 4, "temperature": 0}']),
        },
    ),
    (Equals("text_output", ("One slow reply may",)),),
)
STREAM = replace(UNARY, model="tinychat")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYCHAT_INSTANCE", INSTANCE)
        folder = tmp_path_factory.mktemp("triton")
        with TritonServer.running(folder, "tinychat", "tinychat_unary") as running:
            yield running


@pytest.fixture
def misbehaving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TritonServer]:
    """A Triton that serves only the models that misbehave on order."""
    monkeypatch.setenv("TINYCHAT_INSTANCE", INSTANCE)
    with TritonServer.running(tmp_path, UNARY_FAULTY, STREAM_FAULTY) as running:
        yield running


async def _until(running: RunningLoad, kind: str, count: int) -> None:
    while sum(sample.kind == kind for sample in running.samples) < count:
        running.check()
        await asyncio.sleep(0.02)


async def test_every_answer_is_right_and_names_its_instance(
    server: TritonServer, tmp_path: Path
) -> None:
    spec = ClosedLoop(clients=2, streams=1, pause=0.02)
    async with load(spec, server.grpc, server.grpc, Place(tmp_path / "log")) as running:
        await _until(running, "unary", 20)
        await _until(running, "stream", 1)
    assert {sample.outcome for sample in running.samples} == {"answered"}
    assert {sample.instance for sample in running.samples} == {INSTANCE}
    assert not any(sample.moved for sample in running.samples)


async def test_a_frozen_triton_delays_every_request_that_was_due(
    server: TritonServer, tmp_path: Path
) -> None:
    spec = OpenLoop(rate=200, streams=0, schedule="constant")
    began = time.monotonic()
    async with load(
        spec, server.grpc, server.grpc, Place(tmp_path / "log"), began=began
    ) as running:
        await _until(running, "unary", 20)
        _signal(server, signal.SIGSTOP)
        frozen = time.monotonic() - began
        try:
            while running.counts.in_flight < 150:
                await asyncio.sleep(0.02)
        finally:
            thawed = time.monotonic() - began
            _signal(server, signal.SIGCONT)
    due = [sample for sample in running.samples if frozen < sample.due < thawed]
    assert len(due) >= 140
    assert all(sample.ended >= thawed for sample in due)
    assert {sample.outcome for sample in running.samples} == {"answered"}


async def test_canaries_are_questions_that_judge_their_answers(
    server: TritonServer, tmp_path: Path
) -> None:
    spec = ClosedLoop(clients=1, streams=1, pause=0.02)
    wrong = replace(STREAM, expectations=(Equals("text_output", ("another",)),))
    where, asked = server.grpc, Asked((UNARY, wrong))
    async with load(spec, where, where, Place(tmp_path / "log"), asked=asked) as running:
        await _until(running, "unary", 5)
        await _until(running, "stream", 5)
    found = {(sample.kind, sample.outcome, sample.instance) for sample in running.samples}
    assert found == {("unary", "answered", ""), ("stream", "wrong", "")}
    assert any("another" in sample.detail for sample in running.samples)


async def test_canaries_that_do_not_fit_are_the_operators_mistake(
    server: TritonServer, tmp_path: Path
) -> None:
    async def begin(*canaries: Canary) -> None:
        where = server.grpc
        place, asked = Place(tmp_path / "log"), Asked(canaries)
        async with load(ClosedLoop(), where, where, place, asked=asked):
            pytest.fail("it began")

    other = replace(UNARY, steps=({"text": tensor("BYTES", [1], ["Hello"])},))
    with pytest.raises(ConfigError, match=r"canary\.tinychat_unary\.inputs: expected"):
        await begin(other, STREAM)
    with pytest.raises(ConfigError, match="expected streams=0: no model that is asked"):
        await begin(UNARY)
    with pytest.raises(Unavailable, match="does not describe unknown"):
        await begin(replace(UNARY, model="unknown"))


async def test_models_that_misbehave_are_asked_where_they_are_served(
    misbehaving: TritonServer, tmp_path: Path
) -> None:
    where, spec = misbehaving.grpc, ClosedLoop(clients=1, streams=1, pause=0.02)
    async with load(spec, where, where, Place(tmp_path / "log")) as running:
        await _until(running, "unary", 5)
        await _until(running, "stream", 5)
        assert {sample.outcome for sample in running.samples} == {"answered"}
        assert {sample.instance for sample in running.samples} == {INSTANCE}
        since = len(running.samples)
        control = tmp_path / "models" / STREAM_FAULTY / ".control.json"
        write_whole(control, '{"fault": "empty"}')
        while "wrong" not in {sample.outcome for sample in running.samples}:
            running.check()
            await asyncio.sleep(0.02)
    after = {(sample.kind, sample.outcome) for sample in running.samples[since:]}
    assert after - {("stream", "answered")} == {("unary", "answered"), ("stream", "wrong")}
    empty = [sample for sample in running.samples if sample.outcome == "wrong"]
    assert {sample.instance for sample in empty} == {INSTANCE}
    assert all("''" in sample.detail for sample in empty)


def _signal(server: TritonServer, number: signal.Signals) -> None:
    """Send a signal to Triton and to its models' processes."""
    assert server.process.identity is not None
    triton = psutil.Process(server.process.identity.pid)
    for process in (triton, *triton.children(recursive=True)):
        process.send_signal(number)
