"""The wall clock of a running process, set from outside."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from sidecar.drill.cluster import clocks as clocks_module
from sidecar.drill.cluster.cleanup_on_exit import cleanup_on_exit
from sidecar.drill.cluster.clocks import WallClocks, clock_file, settable_clocks
from sidecar.local.programs import parts
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.errors import Unavailable
from tests.support.mesh.mesh_outside import until

HOUR = 3600.0
NEAR = 60.0
# Says what its clocks say whenever it gets a line.
_PROCESS = """
import sys
from sidecar.runtime.clock import SystemClock
for _ in sys.stdin:
    print(SystemClock().wall(), SystemClock().now(), flush=True)
"""
# Waits for 0.2 s as threads wait for Python's lock: on a condition, by the monotonic clock.
_WAITS = """
import ctypes, time
libc = ctypes.CDLL(None)
attributes, condition, mutex = (ctypes.create_string_buffer(64) for _ in range(3))
libc.pthread_condattr_init(attributes)
libc.pthread_condattr_setclock(attributes, time.CLOCK_MONOTONIC)
libc.pthread_cond_init(condition, attributes)
libc.pthread_mutex_init(mutex, None)
until = time.monotonic_ns() + 200_000_000
libc.pthread_mutex_lock(mutex)
deadline = (ctypes.c_long * 2)(*divmod(until, 10**9))
libc.pthread_cond_timedwait(condition, mutex, deadline)
print("early" if time.monotonic_ns() < until else "in time")
"""


@contextmanager
def process(clocks: WallClocks) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-c", _PROCESS],
        env={**os.environ, **clocks.environment("xds")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            yield running
        finally:
            running.kill()


@contextmanager
def settable(folder: Path, library: Path) -> Iterator[WallClocks]:
    with ExitStack() as stack:
        try:
            clocks = stack.enter_context(settable_clocks(folder, library))
        except Unavailable as error:
            pytest.skip(str(error))
        yield clocks


def ahead(running: "subprocess.Popen[str]") -> tuple[float, float]:
    """By how much its wall clock and its monotonic clock are ahead."""
    assert running.stdin
    assert running.stdout
    running.stdin.write("\n")
    running.stdin.flush()
    wall, now = map(float, running.stdout.readline().split())
    return wall - time.time(), now - SystemClock().now()


async def jumped(running: "subprocess.Popen[str]", seconds: float) -> None:
    """Wait until its wall clock is so far ahead; its monotonic clock never is."""

    def there() -> bool:
        wall, now = ahead(running)
        assert abs(now) < NEAR
        return abs(wall - seconds) < NEAR

    await until(there, f"a wall clock {seconds:g} s ahead")


def shared_memory(clocks: WallClocks) -> list[Path]:
    """What is there of the memory that the processes with these clocks share."""
    return list(Path("/dev/shm").glob(f"*faketime_*_{clocks.shared}"))


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """The library, in a folder with a space in its name."""
    found = parts.faketime()
    if found is None:
        pytest.skip("libfaketime was not fetched")
    (tmp_path / "a folder").mkdir()
    return Path(shutil.copy(found, tmp_path / "a folder"))


async def test_a_wall_clock_jumps_while_a_process_runs(tmp_path: Path, library: Path) -> None:
    with settable(tmp_path, library) as clocks:
        assert all(file.exists() for file in clocks.memory)
        with process(clocks) as running:
            await jumped(running, 0.0)
            clock_file(tmp_path, "xds").write_text("+3600\n")
            await jumped(running, HOUR)
            clock_file(tmp_path, "xds").unlink()
            await jumped(running, 0.0)
            assert shared_memory(clocks) != []
    # Although the process was killed.
    assert shared_memory(clocks) == []


@pytest.mark.parametrize("library", ["", "no library"])
def test_without_the_library_no_clock_can_be_set(tmp_path: Path, library: str) -> None:
    broken = tmp_path / "broken.so"
    broken.write_text(library)
    why = broken.name if library else "libfaketime"  # as the dynamic linker says it
    with (
        pytest.raises(Unavailable, match=why),
        settable_clocks(tmp_path, broken if library else None),
    ):
        pytest.fail("it began")


def test_a_trial_that_does_not_end_is_given_up(
    tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clocks_module, "_TRIAL", 0.001)
    with pytest.raises(Unavailable), settable_clocks(tmp_path, library):
        pytest.fail("it began")
    assert not clock_file(tmp_path, "trial").exists()


def test_a_wait_does_not_end_before_its_deadline(tmp_path: Path, library: Path) -> None:
    """Otherwise threads that wait spin."""
    with settable(tmp_path, library) as clocks:
        clock_file(tmp_path, "xds").write_text("+3600\n")
        env = {**os.environ, **clocks.environment("xds")}
        command = (sys.executable, "-c", _WAITS)
        said = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert said == "in time\n"


def test_shared_memory_goes_even_if_its_holder_is_killed(tmp_path: Path, library: Path) -> None:
    with settable(tmp_path, library) as clocks:
        with cleanup_on_exit(f"test-{os.getpid()}", (), clocks.memory):
            os.kill(clocks.shared, signal.SIGKILL)
        assert not any(file.exists() for file in clocks.memory)
