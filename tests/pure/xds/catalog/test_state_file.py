"""The state file: written whole or not at all, and no disk hinders the control plane."""

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


class Ears:
    """Remembers what the disk says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def state_read(self, path: Path, age: float, services: tuple[str, ...]) -> None:
        self.said.append(f"read after {age:.0f} s")

    def state_refused(self, path: Path, why: str) -> None:
        self.said.append(f"refused: {why}")

    def state_written(self) -> None:
        self.said.append("written")

    def state_unwritten(self, path: Path, why: str) -> None:
        self.said.append(f"unwritten: {why}")


class Scene:
    """A file that is there or not."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "state.json"
        self.ears = Ears()
        self.clock = VirtualClock()
        self.disk = StateFile(self.path, self.clock, self.ears)

    def read(self) -> CachedState | None:
        return self.disk.read(SERVICES)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def test_it_is_written_and_read(scene: Scene) -> None:
    assert scene.read() is None
    assert await scene.disk.write(STATE)
    assert scene.path.stat().st_mode & 0o777 == 0o600
    later = Scene(scene.path.parent)
    await later.clock.advance(90.0)
    assert later.read() == STATE
    assert later.ears.said == ["read after 90 s"]
    assert [path.name for path in scene.path.parent.iterdir()] == ["state.json"]


async def test_only_what_is_new_is_written_and_not_too_often(scene: Scene) -> None:
    cell: Latest[CachedState | None] = Latest(None)
    task = asyncio.create_task(scene.disk.run(lambda: cell.value, cell))
    await scene.clock.advance(10.0)
    assert scene.ears.said == []
    for epoch in range(50):
        cell.set(
            CachedState(SERVICES, {"triton": CachedService(leadership=Leadership(None, epoch))})
        )
        await scene.clock.advance(0.1)
        await asyncio.sleep(0.01)  # the writing is a thread's
    while Scene(scene.path.parent).read() != cell.value:
        await scene.clock.advance(0.1)
        await asyncio.sleep(0.01)
    task.cancel()
    assert len(scene.ears.said) <= 1 + scene.clock.now() - 10.0


async def test_what_was_read_is_not_written_again(scene: Scene) -> None:
    await scene.disk.write(STATE)
    later = Scene(scene.path.parent)
    later.read()
    before = later.path.stat().st_ino
    await later.disk.write(STATE)
    assert later.path.stat().st_ino == before


def test_a_damaged_file_is_put_aside(scene: Scene) -> None:
    scene.path.write_bytes(DOCUMENT[:-20])
    assert scene.read() is None
    [said] = scene.ears.said
    assert "checksum" in said
    assert "put aside as state.json.corrupt" in said
    assert (scene.path.parent / "state.json.corrupt").read_bytes() == DOCUMENT[:-20]
    assert scene.read() is None
    assert len(scene.ears.said) == 1


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "loop", "format", "services"])
def test_what_is_no_file_of_ours_stays_where_it_is(scene: Scene, kind: str) -> None:
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
    [said] = scene.ears.said
    assert said.startswith("refused: ")
    assert "aside" not in said
    assert os.path.lexists(scene.path)


async def test_a_folder_that_is_not_there_is_told(scene: Scene) -> None:
    lost = StateFile(scene.path / "nowhere" / "state", scene.clock, scene.ears)
    assert lost.read(SERVICES) is None
    assert not await lost.write(STATE)
    [said] = scene.ears.said
    assert "No such file or directory" in said


async def test_a_full_disk_leaves_what_was_there(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.disk.write(STATE)

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    newer = CachedState(SERVICES)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        assert not await scene.disk.write(newer)
    assert scene.ears.said[-1] == "unwritten: No space left on device"
    assert Scene(scene.path.parent).read() == STATE
    assert [path.name for path in scene.path.parent.iterdir()] == ["state.json"]
    assert await scene.disk.write(newer)


async def test_a_writing_that_was_cancelled_does_not_undo_the_next(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = threading.Event(), threading.Event()
    dump = cached_state.dump

    def slow(state: CachedState, saved: float) -> bytes:
        if state is STATE:
            entered.set()
            go_on.wait(60.0)
        return dump(state, saved)

    monkeypatch.setattr(cached_state, "dump", slow)
    first = asyncio.create_task(scene.disk.write(STATE))
    await asyncio.to_thread(entered.wait, 60.0)  # the loop goes on: it is a thread that waits
    first.cancel()
    newer = CachedState(SERVICES, zone="west")
    second = asyncio.create_task(scene.disk.write(newer))
    await asyncio.sleep(0.05)
    go_on.set()
    assert await second
    assert Scene(scene.path.parent).read() == newer
    assert [path.name for path in scene.path.parent.iterdir()] == ["state.json"]


async def test_it_tries_again_by_itself(scene: Scene) -> None:
    folder = scene.path.parent / "later"
    late = StateFile(folder / "state", scene.clock, scene.ears)
    task = asyncio.create_task(late.run(lambda: STATE))
    while not scene.ears.said:
        await asyncio.sleep(0.01)
    folder.mkdir()
    while scene.ears.said[-1] != "written":
        await scene.clock.advance(10.0)
        await asyncio.sleep(0.01)
    task.cancel()
    assert (folder / "state").exists()
