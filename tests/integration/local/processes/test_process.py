"""Starting, restarting and stopping parts, with small scripts as stand-ins for the programs."""

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sidecar.local.planning.plan import Part, Probe
from sidecar.local.processes import cleanup, process, state_file
from sidecar.local.processes.identity import MARK, Identity, alive, identify, marked
from sidecar.local.processes.process import Process
from sidecar.local.processes.runner import Runner, StartFailed
from sidecar.local.processes.state_file import MeshState, PartState
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.errors import ConfigError, PartMissing

pytestmark = pytest.mark.integration

PREFIX = f"triton-sidecar-test-{os.getpid()}-"
# A leader with a child in its group, which its death orphans; "ready" appears when both run.
PAIR = "sleep 100 & echo $! > child; mv child ready; sleep 100 & wait"


def part(folder: Path, script: str, **changes: object) -> Part:
    fields: dict[str, object] = {
        "name": "fake",
        "kind": "triton",
        "argv": ("/bin/sh", "-c", script),
        "env": {**os.environ, MARK: PREFIX},
        "cwd": folder,
        "log": folder / "logs" / "fake.log",
        "address": "127.0.0.1:1",
        "probe": Probe("tcp", "127.0.0.1:1"),
        "shm_prefix": PREFIX,
        **changes,
    }
    return Part(**fields)  # type: ignore[arg-type]


async def appears(path: Path) -> str:
    async with asyncio.timeout(30):
        while not path.exists():
            await asyncio.sleep(0.01)
    return path.read_text().strip()


def shared_memory() -> Path:
    region = process._SHM / f"{PREFIX}region"
    region.write_bytes(b"x")
    return region


async def test_orphans_and_shared_memory_of_a_killed_leader_are_removed(tmp_path: Path) -> None:
    started = Process(part(tmp_path, PAIR))
    orphan = identify(int(await appears(tmp_path / "ready")))
    region = shared_memory()
    assert orphan is not None
    started.signal(signal.SIGKILL)  # only the leader
    assert await started.wait() == -signal.SIGKILL
    assert not alive(orphan)
    assert not region.exists()
    assert not list(process.members(started.pid))


async def test_a_leader_that_exits_gives_its_status_and_log(tmp_path: Path) -> None:
    started = Process(part(tmp_path, "echo last words; exit 3"))
    assert await started.wait() == 3
    assert (tmp_path / "logs" / "fake.log").read_text() == "last words\n"
    started.terminate()  # too late, and no other process gets the signal
    started.kill()


async def test_a_start_removes_shared_memory_of_an_earlier_process(tmp_path: Path) -> None:
    region = shared_memory()
    started = Process(part(tmp_path, "exit 0"))
    assert not region.exists()
    await started.wait()


async def test_a_missing_program_is_a_missing_part(tmp_path: Path) -> None:
    with pytest.raises(PartMissing, match="fake: /no/such"):
        Process(part(tmp_path, "", argv=("/no/such",)))


async def test_a_part_without_a_pidfd_is_not_left_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_descriptor_left(pid: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pidfd_open", no_descriptor_left)
    with pytest.raises(PartMissing, match="fake: Too many open files"):
        Process(part(tmp_path, "exec sleep 100"))
    assert not list(marked(PREFIX))


async def test_a_part_runs_without_its_log_if_that_cannot_be_opened(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs").touch()  # a file instead of a folder
    started = Process(part(tmp_path, "echo lost; exit 3"))
    assert await started.wait() == 3
    printed = capfd.readouterr().err
    assert printed == f"fake: it is running without its log {tmp_path}/logs/fake.log: File exists\n"


@asynccontextmanager
async def listening() -> AsyncIterator[Probe]:
    """A listening port, for the probe of a stand-in without one."""
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        yield Probe("tcp", f"127.0.0.1:{server.sockets[0].getsockname()[1]}")


def runner(made: Part, *, restart: bool = True) -> Runner:
    return Runner(made, SystemClock(), restart=restart, changed=lambda: None)


async def test_a_killed_part_is_restarted(tmp_path: Path) -> None:
    async with listening() as probe, asyncio.timeout(60):
        supervised = runner(part(tmp_path, "exec sleep 100", probe=probe))
        running = asyncio.create_task(supervised.run())
        await supervised.until_running()
        first = supervised.state.value.process
        assert first is not None
        os.kill(first.pid, signal.SIGKILL)
        async for state in supervised.state:
            if state.process not in (None, first) and state.condition == "running":
                break
        assert supervised.state.value.restarts == 1
        second = supervised.state.value.process
        await supervised.stop()
        await running
        assert second is not None
        assert not alive(second)
        assert supervised.state.value.condition == "stopped"
        assert supervised.state.value.process is None


async def test_without_restarts_a_killed_part_stays_dead(tmp_path: Path) -> None:
    async with listening() as probe, asyncio.timeout(60):
        supervised = runner(part(tmp_path, "exec sleep 100", probe=probe), restart=False)
        running = asyncio.create_task(supervised.run())
        await supervised.until_running()
        assert supervised.state.value.process is not None
        os.kill(supervised.state.value.process.pid, signal.SIGKILL)
        async for state in supervised.state:
            if state.condition == "dead":
                break
        assert supervised.state.value.exit == -signal.SIGKILL
        await supervised.stop()
        await running


async def test_a_part_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    script = "trap '' TERM; echo > ready; while :; do sleep 0.1; done"
    async with listening() as probe, asyncio.timeout(60):
        supervised = runner(part(tmp_path, script, probe=probe, stop_timeout=0.5))
        running = asyncio.create_task(supervised.run())
        await appears(tmp_path / "ready")
        await supervised.stop()
        await running
        assert supervised.state.value.exit == -signal.SIGKILL


async def test_a_frozen_part_is_stopped(tmp_path: Path) -> None:
    async with listening() as probe, asyncio.timeout(60):
        supervised = runner(part(tmp_path, "exec sleep 100", probe=probe))
        running = asyncio.create_task(supervised.run())
        await supervised.until_running()
        assert supervised.state.value.process is not None
        os.kill(supervised.state.value.process.pid, signal.SIGSTOP)
        await supervised.stop()
        await running
        assert supervised.state.value.exit == -signal.SIGTERM


async def test_a_part_that_does_not_start_reports_why(tmp_path: Path) -> None:
    async with asyncio.timeout(60):
        exiting = runner(part(tmp_path, "exit 7"))
        running = asyncio.create_task(exiting.run())
        with pytest.raises(StartFailed, match="fake: exited with code 7"):
            await exiting.until_running()
        await exiting.stop()
        await running
        absent = runner(part(tmp_path, "", argv=("/no/such",)))
        running = asyncio.create_task(absent.run())
        with pytest.raises(StartFailed, match="/no/such cannot be started"):
            await absent.until_running()
        await absent.stop()
        await running


async def test_a_part_that_hangs_during_its_start_times_out(tmp_path: Path) -> None:
    async with asyncio.timeout(60):
        hung = runner(part(tmp_path, "exec sleep 100", start_timeout=0.3))
        running = asyncio.create_task(hung.run())
        with pytest.raises(StartFailed, match=r"did not come up within 0\.3 s"):
            await hung.until_running()
        hung.kill()
        await running


def test_a_folder_has_only_one_supervisor(tmp_path: Path) -> None:
    cleanup.prepare(tmp_path)
    with cleanup.claim(tmp_path):
        assert cleanup.is_claimed(tmp_path)
        with pytest.raises(ConfigError, match="already"), cleanup.claim(tmp_path):
            pass
        cleanup.prepare(tmp_path)
    assert not cleanup.is_claimed(tmp_path)


def test_a_folder_with_other_files_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="expected an empty folder"):
        cleanup.prepare(tmp_path)


def test_a_sweep_cleans_up_after_a_killed_supervisor(tmp_path: Path) -> None:
    # One process is in the state file, and one was started too late to be in it.
    children = [
        subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(100)"],
            env={**os.environ, MARK: PREFIX},
            start_new_session=True,
        )
        for _ in range(2)
    ]
    region = shared_memory()
    cleanup.prepare(tmp_path)
    with cleanup.claim(tmp_path):
        assert not cleanup.sweep(tmp_path)
    (tmp_path / "triton-0").mkdir()
    (tmp_path / "triton-0" / "sidecar.toml").touch()
    (tmp_path / "mine").touch()
    (tmp_path / "xds-state.json").touch()  # a later mesh must not read it
    log = tmp_path / "logs"
    log.mkdir()
    known = PartState("triton-0", "triton", "", log, "running", identify(children[0].pid))
    state_file.save(
        tmp_path, MeshState(PREFIX, "running", Identity(2**22 + 1, 1), (), (PREFIX,), (known,))
    )
    try:
        with cleanup.claim(tmp_path):
            assert cleanup.sweep(tmp_path)
            assert not cleanup.sweep(tmp_path)
        assert [child.wait(10) for child in children] == [-signal.SIGKILL] * 2
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert not region.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs", "mesh.lock", "mine"]


def test_a_sweep_waits_until_the_ports_are_free(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        cleanup.prepare(tmp_path)
        state_file.save(
            tmp_path, MeshState(PREFIX, "running", Identity(2**22 + 1, 1), (port,), (), ())
        )
        closing = threading.Timer(0.3, held.close)
        closing.start()
        with cleanup.claim(tmp_path):
            assert cleanup.sweep(tmp_path)
        closing.join()
