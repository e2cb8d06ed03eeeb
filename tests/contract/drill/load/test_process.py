"""The clients of a load in their own process, on a server that is told what to answer."""

import asyncio
import itertools
import os
from pathlib import Path

import psutil
import pytest

from sidecar.drill.load.process import Place, RunningLoad, load
from sidecar.drill.load.spec import ClosedLoop, OpenLoop
from sidecar.drill.samples import Sample
from sidecar.runtime.errors import Unavailable
from tests.support.chat_server import ChatServer, chat_server

OPEN = OpenLoop(rate=100, streams=0, schedule="constant")


async def _until(running: RunningLoad, count: int) -> None:
    while len(running.samples) < count:
        running.check()
        await asyncio.sleep(0.01)


def _unary(running: RunningLoad) -> list[Sample]:
    return [sample for sample in running.samples if sample.kind == "unary"]


async def test_a_closed_loop_has_a_sample_for_each_answer(tmp_path: Path) -> None:
    async with chat_server() as server:
        server.instances = ["a", "b"]
        spec = ClosedLoop(clients=2, streams=1, pause=0.01)
        async with load(spec, server.address, server.address, Place(tmp_path / "log")) as running:
            await _until(running, 20)
        assert {sample.outcome for sample in running.samples} == {"answered"}
        assert {sample.client for sample in _unary(running)} == {0, 1}
        assert {sample.instance for sample in _unary(running)} == {"a"}
        streams = [sample for sample in running.samples if sample.kind == "stream"]
        assert all(sample.moved for sample in streams)
        assert {(each.client, each.began_on, each.instance) for each in streams} == {(2, "a", "b")}
        assert running.settled


async def test_failed_and_wrong_answers_are_told_apart(tmp_path: Path) -> None:
    async with chat_server() as server:
        async with load(OPEN, server.address, server.address, Place(tmp_path / "log")) as running:
            await _until(running, 1)
            server.text = "other"
            await _until(running, len(running.samples) + 30)
            server.fails = True
            await _until(running, len(running.samples) + 30)
        found = {sample.outcome: sample.detail for sample in running.samples}
        assert found["wrong"].endswith("answered 'other'")
        assert found["failed"] == "StatusCode.INTERNAL: told to fail"
        assert found["answered"] == ""


async def test_an_open_loop_does_not_wait_for_answers(tmp_path: Path) -> None:
    async with chat_server() as server:
        async with load(OPEN, server.address, server.address, Place(tmp_path / "log")) as running:
            await _until(running, 10)
            await _paused(server, 50)
        late = [sample for sample in running.samples if sample.took > 0.05]
        assert len(late) >= 40
        assert running.counts.most_in_flight >= 50
        assert running.counts.held == 0
        dues = [sample.due for sample in sorted(running.samples, key=lambda each: each.due)]
        steps = [after - before for before, after in itertools.pairwise(dues)]
        assert steps == pytest.approx([0.01] * len(steps))


async def test_a_load_that_could_not_run_says_by_how_much_requests_were_late(
    tmp_path: Path,
) -> None:
    async with chat_server() as server:
        async with load(OPEN, server.address, server.address, Place(tmp_path / "log")) as running:
            await _until(running, 10)
            process = _child()
            process.suspend()
            await asyncio.sleep(0.5)
            process.resume()
            await _until(running, len(running.samples) + 60)
        assert max(sample.late for sample in running.samples) > 0.3
        assert all(sample.late < sample.took + 0.01 for sample in running.samples)


async def test_requests_beyond_the_bound_are_held_and_counted(tmp_path: Path) -> None:
    spec = OpenLoop(rate=100, streams=0, schedule="constant", in_flight=5)
    async with chat_server() as server:
        async with load(spec, server.address, server.address, Place(tmp_path / "log")) as running:
            await _until(running, 10)
            server.answers.clear()
            while running.counts.held < 30:
                await asyncio.sleep(0.01)
            server.answers.set()
        assert running.counts.most_in_flight == 5
        assert running.counts.in_flight == 0
        assert {sample.outcome for sample in running.samples} == {"answered"}
        assert max(sample.took for sample in running.samples) > 0.2


async def test_what_is_in_flight_at_the_end_is_finished(tmp_path: Path) -> None:
    async with chat_server() as server:
        async with load(OPEN, server.address, server.address, Place(tmp_path / "log")) as running:
            await _until(running, 10)
            server.answers.clear()
            while not server.waiting:
                await asyncio.sleep(0.01)
            asyncio.get_running_loop().call_later(0.3, server.answers.set)
        assert {sample.outcome for sample in running.samples} == {"answered"}
        assert max(sample.took for sample in running.samples) > 0.2


async def test_a_process_that_dies_is_an_error(tmp_path: Path) -> None:
    async with chat_server() as server:
        with pytest.raises(Unavailable, match=r"load's process died \(killed by signal 9\); .*log"):
            await _killed(server, tmp_path / "log", check=True)


async def test_one_that_died_unnoticed_is_an_error_at_the_end(tmp_path: Path) -> None:
    async with chat_server() as server:
        with pytest.raises(Unavailable, match="the load's process died"):
            await _killed(server, tmp_path / "log", check=False)


async def test_without_a_reference_there_is_no_load(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        async with load(OPEN, "127.0.0.1:1", "127.0.0.1:1", Place(tmp_path / "log")):
            pytest.fail("it began")


async def test_an_error_in_the_context_ends_the_process(tmp_path: Path) -> None:
    child: list[psutil.Process] = []

    async def aborted() -> None:
        async with load(OPEN, server.address, server.address, Place(tmp_path / "log")):
            child.append(_child())
            raise RuntimeError("aborted")

    async with chat_server() as server:
        with pytest.raises(RuntimeError, match="aborted"):
            await aborted()
        assert not child[0].is_running()


async def test_it_has_the_lowest_priority_and_runs_inside(tmp_path: Path) -> None:
    env = {**os.environ, "NAMED": "there"}
    inside = ("env", "ALSO=inside")
    async with chat_server() as server:
        where = server.address
        async with load(OPEN, where, where, Place(tmp_path / "log", inside, env)):
            child = _child()
            assert child.nice() == 19
            assert child.environ()["NAMED"] == "there"
            assert child.environ()["ALSO"] == "inside"


async def _paused(server: ChatServer, waiting: int) -> None:
    """Answer nothing until so many requests wait."""
    server.answers.clear()
    while server.waiting < waiting:
        await asyncio.sleep(0.01)
    server.answers.set()


async def _killed(server: ChatServer, log: Path, *, check: bool) -> None:
    async with load(OPEN, server.address, server.address, Place(log)) as running:
        await _until(running, 1)
        _child().kill()
        while check:
            running.check()
            await asyncio.sleep(0.01)


def _child() -> psutil.Process:
    children = psutil.Process().children()
    [found] = [each for each in children if "sidecar.drill.load" in each.cmdline()]
    return found
