"""The state file: written completely or not at all, and no disk delays the control plane."""

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest

from sidecar.runtime.latest import Latest
from sidecar.xds.catalog import cached_state
from sidecar.xds.catalog.cached_state import CachedService, CachedState
from sidecar.xds.catalog.retention import Leadership
from sidecar.xds.catalog.state_file import StateFile
from tests.support.virtual_clock import VirtualClock
from tests.support.xds.cached_states import DOCUMENT, SERVICES, STATE

pytestmark = pytest.mark.files


class Listener:
    """Records the events about the disk."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def state_read(self, path: Path, age: float, services: tuple[str, ...]) -> None:
        self.events.append(f"read after {age:.0f} s")

    def state_refused(self, path: Path, why: str) -> None:
        self.events.append(f"refused: {why}")

    def state_written(self) -> None:
        self.events.append("written")

    def state_unwritten(self, path: Path, why: str) -> None:
        self.events.append(f"unwritten: {why}")


class Scene:
    """A file that may exist."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "state.json"
        self.listener = Listener()
        self.clock = VirtualClock()
        self.disk = StateFile(self.path, self.clock, self.listener)

    def read(self) -> CachedState | None:
        return self.disk.read(SERVICES)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def test_a_written_state_is_read(scene: Scene) -> None:
    assert scene.read() is None
    assert await scene.disk.write(STATE)
    assert scene.path.stat().st_mode & 0o777 == 0o600
    later = Scene(scene.path.parent)
    await later.clock.advance(90.0)
    assert later.read() == STATE
    assert later.listener.events == ["read after 90 s"]
    assert [path.name for path in scene.path.parent.iterdir()] == ["state.json"]


async def test_only_changes_are_written_and_not_too_often(scene: Scene) -> None:
    cell: Latest[CachedState | None] = Latest(None)
    task = asyncio.create_task(scene.disk.run(lambda: cell.value, cell))
    await scene.clock.advance(10.0)
    assert scene.listener.events == []
    for epoch in range(50):
        cell.set(
            CachedState(SERVICES, {"triton": CachedService(leadership=Leadership(None, epoch))})
        )
        await scene.clock.advance(0.1)
        await asyncio.sleep(0.01)  # a thread writes
    while Scene(scene.path.parent).read() != cell.value:
        await scene.clock.advance(0.1)
        await asyncio.sleep(0.01)
    task.cancel()
    assert len(scene.listener.events) <= 1 + scene.clock.now() - 10.0


async def test_an_unchanged_state_is_not_written_again(scene: Scene) -> None:
    await scene.disk.write(STATE)
    later = Scene(scene.path.parent)
    later.read()
    before = later.path.stat().st_ino
    await later.disk.write(STATE)
    assert later.path.stat().st_ino == before


def test_a_corrupt_file_is_moved_aside(scene: Scene) -> None:
    scene.path.write_bytes(DOCUMENT[:-20])
    assert scene.read() is None
    [event] = scene.listener.events
    assert "checksum" in event
    assert "put aside as state.json.corrupt" in event
    assert (scene.path.parent / "state.json.corrupt").read_bytes() == DOCUMENT[:-20]
    assert scene.read() is None
    assert len(scene.listener.events) == 1


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "loop", "format", "services"])
def test_a_foreign_file_is_not_replaced(scene: Scene, kind: str) -> None:
    match kind:
        case "folder":
            scene.path.mkdir()
        case "pipe":
            os.mkfifo(scene.path)
        case "device":
            scene.path.symlink_to("/dev/zero")
        case "loop":
            scene.path.symlink_to(scene.path)
        case "format":
            scene.path.write_text('{"format": 7}\n')
        case "services":
            scene.path.write_bytes(cached_state.dump(CachedState(("x",)), 0.0))
    assert scene.read() is None
    [event] = scene.listener.events
    assert event.startswith("refused: ")
    assert "aside" not in event
    assert os.path.lexists(scene.path)


async def test_a_missing_folder_is_reported(scene: Scene) -> None:
    lost = StateFile(scene.path / "nowhere" / "state", scene.clock, scene.listener)
    assert lost.read(SERVICES) is None
    assert not await lost.write(STATE)
    [event] = scene.listener.events
    assert "No such file or directory" in event


async def test_a_full_disk_keeps_the_previous_file(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.disk.write(STATE)

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    newer = CachedState(SERVICES)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        assert not await scene.disk.write(newer)
    assert scene.listener.events[-1] == "unwritten: No space left on device"
    assert Scene(scene.path.parent).read() == STATE
    assert [path.name for path in scene.path.parent.iterdir()] == ["state.json"]
    assert await scene.disk.write(newer)


async def test_a_cancelled_write_does_not_undo_the_next(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, proceed = threading.Event(), threading.Event()
    dump = cached_state.dump

    def slow(state: CachedState, saved: float) -> bytes:
        if state is STATE:
            entered.set()
            proceed.wait(60.0)
        return dump(state, saved)

    monkeypatch.setattr(cached_state, "dump", slow)
    first = asyncio.create_task(scene.disk.write(STATE))
    await asyncio.to_thread(entered.wait, 60.0)  # the loop continues: a thread waits
    first.cancel()
    newer = CachedState(SERVICES, zone="west")
    second = asyncio.create_task(scene.disk.write(newer))
    await asyncio.sleep(0.05)
    proceed.set()
    assert await second
    assert Scene(scene.path.parent).read() == newer
    assert [path.name for path in scene.path.parent.iterdir()] == ["state.json"]


async def test_a_failed_write_is_retried(scene: Scene) -> None:
    folder = scene.path.parent / "later"
    late = StateFile(folder / "state", scene.clock, scene.listener)
    task = asyncio.create_task(late.run(lambda: STATE))
    while not scene.listener.events:
        await asyncio.sleep(0.01)
    folder.mkdir()
    while scene.listener.events[-1] != "written":
        await scene.clock.advance(10.0)
        await asyncio.sleep(0.01)
    task.cancel()
    assert (folder / "state").exists()
