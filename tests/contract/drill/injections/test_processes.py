"""Faults that are caused to real processes."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sidecar.drill.injections.processes import disk_full
from sidecar.drill.stage import file_limit

# Appends to a file whenever it gets a line, and says what came of it.
_WRITER = """
import sys
for _ in sys.stdin:
    try:
        with open(sys.argv[1], "ab") as file:
            file.write(b"x")
        print("written", flush=True)
    except OSError:
        print("failed", flush=True)
"""


class Writer:
    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def writes(self) -> str:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@contextmanager
def writer(file: Path) -> Iterator[Writer]:
    command = [sys.executable, "-c", _WRITER, str(file)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Writer(process)
        finally:
            process.kill()


async def test_a_full_disk_is_one_on_which_nothing_can_be_written(tmp_path: Path) -> None:
    with writer(tmp_path / "a") as plane, writer(tmp_path / "b") as sidecar:
        parts = {"xds": plane.process.pid, "sidecar-0": sidecar.process.pid}
        stage: Any = SimpleNamespace(
            folder=tmp_path,
            now=SimpleNamespace(instances=[SimpleNamespace(id="triton-0")]),
            pid=parts.__getitem__,
            sidecar_of=lambda instance: instance.replace("triton", "sidecar"),
        )
        assert (plane.writes(), sidecar.writes()) == ("written", "written")
        async with disk_full(stage, ""):
            assert (plane.writes(), sidecar.writes()) == ("failed", "failed")
        assert (plane.writes(), sidecar.writes()) == ("written", "written")


async def test_a_process_that_has_ended_needs_no_room(tmp_path: Path) -> None:
    with writer(tmp_path / "a") as plane:
        stage: Any = SimpleNamespace(
            folder=tmp_path, now=SimpleNamespace(instances=[]), pid=lambda part: plane.process.pid
        )
        async with disk_full(stage, ""):
            plane.process.kill()
            plane.process.wait()


async def test_a_limit_from_before_is_set_back(tmp_path: Path) -> None:
    with writer(tmp_path / "a") as plane:
        pid = plane.process.pid
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        stage: Any = SimpleNamespace(
            folder=tmp_path, now=SimpleNamespace(instances=[]), pid=lambda part: pid
        )
        async with disk_full(stage, ""):
            assert resource.prlimit(pid, resource.RLIMIT_FSIZE)[0] == 0
        assert resource.prlimit(pid, resource.RLIMIT_FSIZE)[0] == 100


def test_another_process_with_the_same_pid_keeps_its_limit(tmp_path: Path) -> None:
    with writer(tmp_path / "a") as later:
        found = file_limit.read(later.process.pid)
        assert found
        earlier = replace(found, process=replace(found.process, start=found.process.start - 1))
        file_limit.write(earlier, 0)
        assert later.writes() == "written"
        assert file_limit.parse(str(found)) == found
