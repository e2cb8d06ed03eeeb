"""Work in daemon threads: a hung or full disk blocks neither the event loop nor the exit.

A pipe without a writer simulates a file that never arrives.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
from pydantic import SecretStr

from sidecar.consul.client import Consul
from sidecar.health.probes.prober import TritonIdentity
from sidecar.health.progress import Loads
from sidecar.models.model_set_watch import ModelSetReports, ModelSetWatch
from sidecar.models.repository import Repository
from sidecar.models.rules import ModelSetRules
from sidecar.notify import webhook
from sidecar.recovery import actions, nomad, triton_processes
from sidecar.runtime import atomic_file
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.errors import DeadlineExceeded, SidecarError
from sidecar.runtime.latest import Latest
from sidecar.runtime.threads import in_daemon_thread
from sidecar.settings import XdsSettings, load_xds
from sidecar.settings.tables.notify import NotifySettings
from sidecar.settings.tables.recovery import NomadAction, SignalAction
from sidecar.xds.app import ControlPlane
from sidecar.xds.catalog.cached_state import CachedState
from sidecar.xds.catalog.state_file import StateFile
from sidecar.xds.metrics import ControlPlaneMetrics
from sidecar.xds.observer import Observer

NOBODY = "http://127.0.0.1:1"
PATIENCE = 60.0


class Pipe:
    """A slow file: a reader that opens it waits for `write`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "slow"
        os.mkfifo(self.path)

    async def write(self, text: str) -> None:
        """Write to the current or next reader."""
        async with asyncio.timeout(PATIENCE):
            await asyncio.to_thread(self.path.write_text, text)

    def end(self) -> None:
        """Release a waiting reader."""
        with suppress(OSError):  # there is no reader
            os.close(os.open(self.path, os.O_WRONLY | os.O_NONBLOCK))


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    made = Pipe(tmp_path)
    yield made
    made.end()


@asynccontextmanager
async def started(work: Awaitable[object]) -> AsyncIterator["asyncio.Future[object]"]:
    """A task of `work`, started and run until it blocks."""
    task = asyncio.ensure_future(work)
    for _ in range(20):
        await asyncio.sleep(0)
    yield task
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait((task,))


async def test_work_in_a_thread_returns_its_outcome_and_does_not_block_the_loop() -> None:
    go, threads = threading.Event(), list[threading.Thread]()

    def work() -> str:
        threads.append(threading.current_thread())
        assert go.wait(PATIENCE)
        return "done"

    cancelled, awaited = in_daemon_thread(work, "one"), in_daemon_thread(work, "two")
    cancelled.cancel()
    go.set()
    async with asyncio.timeout(PATIENCE):
        assert await awaited == "done"
        with pytest.raises(OSError, match="No such file"):
            await in_daemon_thread(Path("/nonexistent").read_text, "three")
    assert all(thread.daemon for thread in threads)  # a process's exit waits for no daemon thread


async def test_a_request_to_consul_does_not_stop_the_loop(pipe: Pipe) -> None:
    settings = load_xds(None, {"consul.address": NOBODY, "consul.token_file": str(pipe.path)})
    async with Consul(settings.consul.access) as consul:
        async with started(consul.health_service("triton")) as asked:
            assert not asked.done()
            await pipe.write("secret")
        assert isinstance(asked.exception(), SidecarError)


async def test_a_reload_of_the_control_plane_does_not_stop_the_loop() -> None:
    go = threading.Event()
    settings = load_xds(None)

    def load() -> XdsSettings:
        assert go.wait(PATIENCE)
        return settings

    log = structlog.get_logger()
    async with Consul(settings.consul.access) as consul:
        plane = ControlPlane(load, settings, consul, SystemClock(), ControlPlaneMetrics(), log)
        async with started(plane._reload()) as reload:
            assert not reload.done()
            go.set()
        assert reload.result() == "nothing"


def notification(pipe: Pipe, **more: Any) -> Coroutine[Any, Any, None]:
    settings = NotifySettings(url=SecretStr(NOBODY), token_file=pipe.path, **more)
    return webhook.post(settings.receiver, "notify.pager", b"{}")


def nomad_restart(pipe: Pipe, **more: Any) -> Coroutine[Any, Any, None]:
    allocation = "5ab0c7ef-92d1-4f3a-8a51-0d5e9b1c3f77"
    where = {"task": "triton", "allocation": allocation, "address": NOBODY}
    settings = {"kind": "nomad", "token_file": pipe.path, **where, **more}
    return nomad.restart(NomadAction.model_validate(settings).restart)


def signalling(pipe: Pipe, **more: Any) -> Coroutine[Any, Any, None]:
    settings = {"kind": "signal", "pid_file": pipe.path, **more}
    return actions._signal(SignalAction.model_validate(settings).restart, "127.0.0.1:1")


@pytest.mark.parametrize("ask", [notification, nomad_restart, signalling])
def test_waiting_for_a_file_has_a_deadline_and_the_process_exits(
    pipe: Pipe, ask: Callable[..., Coroutine[Any, Any, None]]
) -> None:
    errors: list[BaseException] = []

    def life() -> None:
        try:
            asyncio.run(ask(pipe, timeout=0.05))
        except BaseException as error:  # noqa: BLE001  # of another thread
            errors.append(error)

    process = threading.Thread(target=life, daemon=True)
    process.start()
    process.join(PATIENCE)
    assert [type(error) for error in errors] == [DeadlineExceeded]


async def test_a_signal_that_timed_out_is_not_sent_later(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, sent = threading.Event(), list[object]()

    def recorded(path: Path) -> object:
        path.read_text()
        found.set()
        return object()

    monkeypatch.setattr(triton_processes, "recorded", recorded)
    monkeypatch.setattr(triton_processes, "send", lambda *args: sent.append(args))
    with pytest.raises(DeadlineExceeded):
        await signalling(pipe, timeout=0.05)
    await pipe.write("1")
    assert await asyncio.to_thread(found.wait, PATIENCE)
    assert sent == []


async def test_a_notification_does_not_stop_the_loop(pipe: Pipe) -> None:
    async with started(notification(pipe)) as sent:
        assert not sent.done()
        await pipe.write("secret")
    assert isinstance(sent.exception(), SidecarError)


async def test_a_restart_by_nomad_does_not_stop_the_loop(pipe: Pipe) -> None:
    async with started(nomad_restart(pipe)) as asked:
        assert not asked.done()
        await pipe.write("secret")
    assert isinstance(asked.exception(), SidecarError)


def ends(life: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """A process that exits while its work hangs."""

    async def begin() -> None:
        async with started(life()) as begun:
            begun.cancel()

    process = threading.Thread(target=lambda: asyncio.run(begin()), daemon=True)
    process.start()
    process.join(PATIENCE)
    assert not process.is_alive()


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """A call on a hung disk, which blocks until the test is over."""
    over = threading.Event()
    yield lambda *_: over.wait()
    over.set()


def test_a_hung_reload_does_not_block_the_exit(hung: Callable[..., Any]) -> None:
    settings, log = load_xds(None), structlog.get_logger()

    async def life() -> None:
        async with Consul(settings.consul.access) as consul:
            plane = ControlPlane(hung, settings, consul, SystemClock(), ControlPlaneMetrics(), log)
            await plane._reload()

    ends(life)


def test_a_hung_state_file_does_not_block_the_exit(
    hung: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic_file, "replace", hung)
    observer = Observer(ControlPlaneMetrics(), SystemClock(), structlog.get_logger())
    disk = StateFile(tmp_path / "state", SystemClock(), observer)
    ends(lambda: disk.write(CachedState(("triton",))))


def test_hung_model_files_do_not_block_the_exit(
    hung: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Repository, "read", hung)
    identity, loads = Latest(TritonIdentity()), Latest(Loads())
    said: list[object] = []
    note = said.append
    rules = ModelSetRules(("m",), tmp_path, 1.0)
    watch = ModelSetWatch(identity, loads, rules, SystemClock(), ModelSetReports(note, note))
    ends(watch.run)
