"""Reading /proc of real processes."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.drill.soak import resources
from sidecar.drill.soak.resource_growth import Reading, inventory, leaks
from sidecar.local.processes.identity import MARK

# Opens so many descriptors, and holds so many MiB more, for each number that it reads.
_LEAKS = """
import os, sys
kept = []
print("ready", flush=True)
for line in sys.stdin:
    kept += [os.open("/dev/null", os.O_RDONLY) for _ in range(int(line))]
    kept.append(b"x" * (int(line) << 20))
    print("done", flush=True)
"""
_STARTS = """
import subprocess, sys
child = subprocess.Popen(["sleep", "600"])
print("ready", flush=True)
sys.stdin.read()
child.kill()
"""


@pytest.fixture
def mesh_id() -> str:
    return f"test-{secrets.token_hex(4)}"


@pytest.fixture
def start(mesh_id: str) -> Iterator["Start"]:
    with Start(mesh_id) as made:
        yield made


class Start:
    """Starts processes with the mark of a mesh, and ends them."""

    def __init__(self, mesh_id: str) -> None:
        self.mesh_id = mesh_id
        self.started: list[subprocess.Popen[str]] = []

    def __call__(self, program: str, *, marked: bool = True) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, **({MARK: self.mesh_id} if marked else {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        return process

    def __enter__(self) -> "Start":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.started:
            process.communicate()


def named(readings: tuple[Reading, ...], name: str) -> list[Reading]:
    return [each for each in readings if each.name == name]


def test_a_process_that_leaks_descriptors_and_memory_is_found(mesh_id: str, start: Start) -> None:
    leaking = start(_LEAKS)
    parts = {"triton-0": leaking.pid, "triton-1": None}
    before = resources.read(mesh_id, parts, 1.0)
    assert leaking.stdin
    assert leaking.stdout
    print(50, file=leaking.stdin, flush=True)
    assert leaking.stdout.readline() == "done\n"
    after = resources.read(mesh_id, parts, 2.0)
    [first], [second] = named(before, "triton-0"), named(after, "triton-0")
    assert (first.at, second.at) == (1.0, 2.0)
    assert first.life == second.life
    assert second.descriptors == first.descriptors + 50
    assert second.rss >= first.rss + (50 << 20)
    found = leaks(inventory(before, {}, {}), inventory(after, {}, {}))
    assert [each.code for each in found] == ["leaked_descriptors"]


def test_what_a_part_has_started_is_named_after_it(mesh_id: str, start: Start) -> None:
    part = start(_STARTS)
    found = resources.read(mesh_id, {"sidecar-0": part.pid}, 0.0)
    assert len(named(found, "sidecar-0")) == 1
    assert len(named(found, "sidecar-0 sleep")) == 1


def test_what_the_drill_has_started_belongs_to_it(mesh_id: str, start: Start) -> None:
    program = f"drill {Path(sys.executable).name}"
    before = named(resources.read(mesh_id, {}, 0.0), program)
    start(_LEAKS, marked=False)
    found = resources.read(mesh_id, {}, 0.0)
    assert len(named(found, program)) == len(before) + 1
    assert len(named(found, resources.DRILL)) == 1


def test_a_process_that_has_ended_is_left_out(mesh_id: str, start: Start) -> None:
    part = start(_LEAKS)
    part.communicate()
    assert named(resources.read(mesh_id, {"triton-0": part.pid}, 0.0), "triton-0") == []


def test_shared_memory_is_counted_by_prefix() -> None:
    prefix = f"triton-sidecar-test-{secrets.token_hex(4)}-"
    place = Path("/dev/shm") / f"{prefix}a"
    place.write_bytes(b"")
    try:
        assert resources.shared_memory([prefix]) == {f"/dev/shm/{prefix}": 1}
    finally:
        place.unlink()
    assert resources.shared_memory([prefix]) == {}
