"""Faults of machines, caused on a real small disk and to the clocks of real processes."""

import errno
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.drill.cluster.clocks import clock_file
from sidecar.drill.cluster.network_namespaces import NetworkNamespaces
from sidecar.drill.cluster.small_disk import DISK, LOGS, ordinary_disk, small_disk
from sidecar.drill.injections.machines import clocks_jumped, disk_full
from sidecar.runtime.errors import PartMissing, Unavailable
from tests.support.mesh.mesh_outside import until

_SIZE = 1 << 20
_BLOCK = bytes(64 << 10)
_ROOT = Path(__file__).parents[4]
# Mounts a small disk in a folder, says so, and waits.
_DISK = """
import sys, time
from pathlib import Path
from sidecar.drill.cluster.network_namespaces import NetworkNamespaces
from sidecar.drill.cluster.small_disk import small_disk
made = NetworkNamespaces()
made.build(())
with small_disk(Path(sys.argv[1]), made.enter_hub()):
    print("mounted", flush=True)
    time.sleep(600)
"""
# Causes a fault in a folder, says so, and waits.
_FAULT = """
import asyncio, sys
from pathlib import Path
from types import SimpleNamespace
from sidecar.drill.injections import machines
async def main(folder, fault):
    stage = SimpleNamespace(folder=Path(folder), sidecar_of=lambda instance: "sidecar-1")
    async with getattr(machines, fault)(stage, "triton-1"):
        print("on", flush=True)
        await asyncio.sleep(600)
asyncio.run(main(*sys.argv[1:]))
"""


def stage(folder: Path) -> Any:
    """As much of a cluster as these faults need."""
    return SimpleNamespace(folder=folder, sidecar_of=lambda instance: "sidecar-1")


def clock_files(folder: Path) -> list[Path]:
    """Those of the clocks that jump with `triton-1`."""
    return [clock_file(folder, part) for part in ("sidecar-1", "xds")]


@pytest.fixture
def inside() -> Iterator[tuple[str, ...]]:
    """What a command is run with so that it may mount something."""
    made = NetworkNamespaces()
    try:
        made.build(())
        yield made.enter_hub()
    except PartMissing as error:
        pytest.skip(str(error))
    finally:
        made.close()


@contextmanager
def mounted(folder: Path, inside: Sequence[str]) -> Iterator[None]:
    """A small disk in a folder; where nothing can be mounted the test is skipped."""
    with ExitStack() as stack:
        try:
            stack.enter_context(small_disk(folder, inside, _SIZE))
        except Unavailable as error:
            pytest.skip(str(error))
        yield


@contextmanager
def elsewhere(script: str, *arguments: str) -> Iterator[str]:
    """A process that runs a script, until it is killed; gives the line that it says."""
    with subprocess.Popen(
        [sys.executable, "-c", script, *arguments], cwd=_ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            yield process.stdout.readline()
        finally:
            process.kill()


def append(file: Path) -> int:
    """Append a block to a file; gives the error, 0 for none."""
    try:
        with file.open("ab") as opened:
            opened.write(_BLOCK)
    except OSError as error:
        return error.errno or -1
    return 0


async def test_nothing_can_be_written_to_a_full_disk(
    tmp_path: Path, inside: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    with mounted(tmp_path, inside):
        log, state = tmp_path / LOGS / "xds.log", tmp_path / DISK / "xds.json"
        assert append(log) == 0
        async with disk_full(stage(tmp_path), ""):
            assert (append(log), append(state)) == (errno.ENOSPC, errno.ENOSPC)
        assert (append(log), append(state)) == (0, 0)
        assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    # The logs are still there, and the disk is not.
    assert (tmp_path / LOGS / "xds.log").stat().st_size >= 2 * len(_BLOCK)
    assert not (tmp_path / DISK).exists()
    assert capfd.readouterr().err == ""


def test_a_disk_that_logs_have_filled_is_reported(
    tmp_path: Path, inside: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    with mounted(tmp_path, inside):
        log = tmp_path / LOGS / "xds.log"
        while append(log) == 0:
            pass
    assert log.stat().st_size > _SIZE / 2
    assert str(tmp_path / LOGS) in capfd.readouterr().err


def test_logs_that_cannot_be_kept_are_reported(
    tmp_path: Path, inside: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    with mounted(tmp_path, inside):
        assert append(tmp_path / LOGS / "xds.log") == 0
        (tmp_path / f".{LOGS}").mkdir()  # where they are kept first
    assert (tmp_path / LOGS).is_dir()
    assert not (tmp_path / LOGS).is_symlink()
    assert str(tmp_path / LOGS) in capfd.readouterr().err


async def test_a_disk_has_room_again_after_its_drill_was_killed(
    tmp_path: Path, inside: tuple[str, ...]
) -> None:
    with mounted(tmp_path, inside):
        log = tmp_path / LOGS / "xds.log"
        with elsewhere(_FAULT, str(tmp_path), "disk_full") as said:
            assert said == "on\n"
            assert append(log) == errno.ENOSPC
        await until(lambda: append(log) == 0, "room on the disk")
        assert [each.name for each in (tmp_path / DISK).iterdir()] == [LOGS]


async def test_nothing_is_mounted_after_a_drill_was_killed(
    tmp_path: Path, inside: tuple[str, ...]
) -> None:
    (trial := tmp_path / "trial").mkdir()
    with mounted(trial, inside):
        pass
    with elsewhere(_DISK, str(tmp_path)) as said:
        assert said == "mounted\n"
        assert (tmp_path / LOGS).is_dir()
    await until(lambda: not (tmp_path / DISK).exists(), "the disk is gone")


@pytest.mark.parametrize(
    ("command", "why"),
    [(("sh", "-c", "echo no tmpfs here >&2"), "no tmpfs here"), (("/no/program",), "/no/program")],
)
def test_where_nothing_can_be_mounted_it_says_why(
    tmp_path: Path, command: tuple[str, ...], why: str
) -> None:
    with pytest.raises(Unavailable, match=why), small_disk(tmp_path, command):
        pytest.fail("it was mounted")
    ordinary_disk(tmp_path)
    assert append(tmp_path / LOGS / "xds.log") == append(tmp_path / DISK / "xds.json") == 0


async def test_clocks_are_an_hour_ahead_until_the_end(tmp_path: Path) -> None:
    files = clock_files(tmp_path)
    async with clocks_jumped(stage(tmp_path), "triton-1"):
        assert [float(file.read_text()) for file in files] == [3600.0, 3600.0]
    assert not any(file.exists() for file in files)


async def test_clocks_are_right_again_after_their_drill_was_killed(tmp_path: Path) -> None:
    files = clock_files(tmp_path)
    with elsewhere(_FAULT, str(tmp_path), "clocks_jumped") as said:
        assert said == "on\n"
        assert all(file.exists() for file in files)
    await until(lambda: not any(file.exists() for file in files), "no clock is ahead")
