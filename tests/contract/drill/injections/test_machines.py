"""Faults of machines, caused on a real small disk and to the clocks of real processes."""

import errno
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.drill.cluster.clocks import clock_file
from sidecar.drill.cluster.network_namespaces import NetworkNamespaces
from sidecar.drill.cluster.small_disk import DISK, LOGS, small_disk
from sidecar.drill.injections.machines import clocks_jumped, disk_full

_SIZE = 1 << 20
_BLOCK = bytes(64 << 10)
_ROOT = Path(__file__).parents[4]
_DRILL = """
import sys, time
from pathlib import Path
from sidecar.drill.cluster.network_namespaces import NetworkNamespaces
from sidecar.drill.cluster.small_disk import small_disk
made = NetworkNamespaces()
made.build(())
with small_disk(Path(sys.argv[1]), made.enter_hub()) as mounted:
    print(mounted, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def inside() -> Iterator[tuple[str, ...]]:
    """What a command is run with so that it may mount something."""
    made = NetworkNamespaces()
    try:
        made.build(())
        yield made.enter_hub()
    finally:
        made.close()


def append(file: Path) -> int:
    """Append a block to a file; gives the error, 0 for none."""
    try:
        with file.open("ab") as opened:
            opened.write(_BLOCK)
    except OSError as error:
        return error.errno or -1
    return 0


async def test_nothing_can_be_written_to_a_full_disk(
    tmp_path: Path, inside: tuple[str, ...]
) -> None:
    stage: Any = SimpleNamespace(folder=tmp_path)
    with small_disk(tmp_path, inside, _SIZE) as mounted:
        assert mounted
        log, state = tmp_path / LOGS / "xds.log", tmp_path / DISK / "xds.json"
        assert append(log) == 0
        async with disk_full(stage, ""):
            assert (append(log), append(state)) == (errno.ENOSPC, errno.ENOSPC)
        assert (append(log), append(state)) == (0, 0)
        assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    # The logs are still there, and the disk is not.
    assert (tmp_path / LOGS / "xds.log").stat().st_size >= 2 * len(_BLOCK)
    assert not (tmp_path / DISK).exists()


def test_nothing_is_mounted_after_a_drill_was_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _DRILL, str(tmp_path)], cwd=_ROOT, stdout=subprocess.PIPE
    ) as drill:
        assert drill.stdout
        assert drill.stdout.readline() == b"True\n"
        assert (tmp_path / LOGS).is_dir()
        drill.kill()
    while (tmp_path / DISK).exists():
        time.sleep(0.02)


def test_a_disk_is_a_folder_where_nothing_can_be_mounted(tmp_path: Path) -> None:
    with small_disk(tmp_path, ("false",)) as mounted:
        assert not mounted
        assert append(tmp_path / LOGS / "xds.log") == append(tmp_path / DISK / "xds.json") == 0


async def test_clocks_are_an_hour_ahead_until_the_end(tmp_path: Path) -> None:
    stage: Any = SimpleNamespace(
        folder=tmp_path, sidecar_of=lambda instance: instance.replace("triton", "sidecar")
    )
    files = [clock_file(tmp_path, part) for part in ("sidecar-1", "xds")]
    async with clocks_jumped(stage, "triton-1"):
        assert [float(file.read_text()) for file in files] == [3600.0, 3600.0]
    assert not any(file.exists() for file in files)
