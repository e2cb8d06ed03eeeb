"""A mesh on a full disk: a new one fails with one line, and a running one continues."""

import asyncio
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.local import control, launch, meshfile, status_table
from sidecar.local.planning.plan import MeshOptions
from sidecar.local.processes import cleanup, state_file, supervisor
from sidecar.local.processes.identity import MARK, Identity, identify
from sidecar.local.processes.state_file import MeshState, PartState
from sidecar.local.processes.supervisor import Supervisor
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.errors import ConfigError, Unavailable
from tests.support.local_plan import make, nothing

NAME = f"triton-sidecar-test-{os.getpid()}-disk"
FULL = OSError(errno.ENOSPC, "No space left on device")


# In a shell: `preexec_fn` would fork this process, and gRPC would write to the child's stderr.
LIMITED = ("sh", "-c", 'ulimit -f 8; exec "$@"', "sh")  # 4096 bytes


@pytest.mark.parametrize("more", [(), ("--detach",)])
def test_a_mesh_on_a_full_disk_fails_with_one_line(tmp_path: Path, more: tuple[str, ...]) -> None:
    (tmp_path / cleanup.LOCK).touch()  # left by an earlier mesh
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "supervisor.log").write_text("its last words\n")
    done = subprocess.run(
        (*LIMITED, sys.executable, "-m", "sidecar", "local", "up", f"--dir={tmp_path}", *more),
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    wanted = f"--dir {tmp_path}: expected a folder to write to: File too large\n"
    assert done.stderr.removeprefix("triton-sidecar: ") == wanted
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs", cleanup.LOCK]
    assert (tmp_path / "logs" / "supervisor.log").read_text() == "its last words\n"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"),
         "/x/y: No space left on device"),
        (FULL, "FOLDER: No space left on device"),
        (shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")]),
         "FOLDER: No space left on device: 'b'"),
    ],
)  # fmt: skip
def test_a_failed_write_during_the_start_is_reported_in_one_line(
    error: OSError, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: object) -> None:
        raise error

    monkeypatch.setattr(launch, "find_programs", lambda: None)
    monkeypatch.setattr(launch, "read_sources", lambda _: None)
    monkeypatch.setattr(launch, "_run", run)
    with pytest.raises(Unavailable) as raised:
        launch.up(MeshOptions(tmp_path), nothing)
    assert str(raised.value) == message.replace("FOLDER", str(tmp_path))


async def test_the_state_of_a_mesh_is_written_once_the_disk_has_space_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watched = Supervisor(make(folder=tmp_path), SystemClock())
    write, room = meshfile.write_whole, False

    def full(path: Path, text: str) -> None:
        if not room:
            raise FULL
        write(path, text)

    monkeypatch.setattr(state_file, "write_whole", full)
    monkeypatch.setattr(supervisor, "_RETRY", 0.01)
    watched.ready()
    watched.ready()
    room = True
    while (found := state_file.load(tmp_path)) is None or found.phase != "running":
        await asyncio.sleep(0.01)
    fails, again = capsys.readouterr().err.splitlines()
    assert fails.endswith(
        "state.json is not written: No space left on device; the mesh keeps running"
    )
    assert again.endswith("state.json is written again")


def orphaned(folder: Path) -> subprocess.Popen[bytes]:
    """A part of a mesh whose supervisor was killed."""
    cleanup.prepare(folder)
    with cleanup.claim(folder):
        pass
    child = subprocess.Popen(
        (sys.executable, "-c", "import time; time.sleep(100)"),
        env={**os.environ, MARK: NAME},
        start_new_session=True,
    )
    part = PartState("envoy", "envoy", "", folder / "log", "running", identify(child.pid))
    gone = Identity(2**22 + 1, 1)
    state_file.save(folder, MeshState(NAME, "running", gone, (), (), (part,)))
    return child


@pytest.mark.parametrize(
    "start",
    [
        lambda folder: launch.up(MeshOptions(folder), nothing),
        lambda folder: control.detach(folder, ()),
    ],
)
def test_a_mesh_without_its_supervisor_runs_until_it_is_stopped(
    start: Callable[[Path], object], tmp_path: Path
) -> None:
    with orphaned(tmp_path) as child:
        try:
            with pytest.raises(
                ConfigError, match="running there, but its supervisor was killed"
            ) as raised:
                start(tmp_path)
            assert f"`triton-sidecar local down --mesh {tmp_path}` stops it" in str(raised.value)
            assert child.poll() is None
            assert state_file.load(tmp_path)
            assert control.down(tmp_path)
            assert child.wait(60) < 0
        finally:
            child.kill()


@pytest.mark.parametrize(
    ("part", "line"),
    [
        (PartState("consul", "consul", "", Path(), "stopped", exit=1), "consul: stopped"),
        (PartState("xds", "xds", "", Path(), "stopped", exit=-9), "xds: stopped (exit -9)"),
        (PartState("xds", "xds", "", Path(), "restarting", exit=1), "xds: restarting (exit 1)"),
    ],
)
def test_the_exit_status_of_a_stopped_part_is_shown_unless_it_stopped_gracefully(
    part: PartState, line: str
) -> None:
    assert status_table._line(part) == line
