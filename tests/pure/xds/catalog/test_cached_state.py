"""The cached state comes back whole or not at all, and no disk failure stops a control plane."""

import asyncio
import errno
import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.runtime.latest import Latest
from sidecar.traffic.guard import Rollback
from sidecar.traffic.policy import Guard, Release
from sidecar.xds.catalog import cached_state
from sidecar.xds.catalog.cached_state import CachedService, CachedState, CorruptState, UnusableState
from sidecar.xds.catalog.catalog import Health, Instance, Leader
from sidecar.xds.catalog.policy_indexes import PolicyIndexes
from sidecar.xds.catalog.retention import Leadership
from sidecar.xds.catalog.state_file import StateFile
from tests.support.virtual_clock import VirtualClock

A = Instance(
    "a", "10.0.0.1", 8001, 9001, Health.WARNING, weight=7, tags=("primary",), zone="z", capacity=4
)
B = Instance("dc2/b", "fe80::1", 8001, 9001, draining=True, model_set="files-1", datacenter="dc2")
KEPT = CachedService(
    (A, B),
    {"dc2/b": 1_700_000_000},
    Leadership(Leader("a", 7), 9),
    '{"mode": "strict"}',
    PolicyIndexes(9, 7, -5),
)
RELEASE = Release(tag="v2", percent=20, guard=Guard(max_latency=0.8))
ROLLBACKS = {"triton": Rollback(RELEASE, "9 % failed", answered=12)}
STATE = CachedState(("triton", "other"), {"triton": KEPT}, "east", ROLLBACKS)
SERVICES = ("other", "triton")
DOCUMENT = cached_state.dump(STATE, 1_700_000_000.0)


def resealed(body: bytes) -> bytes:
    """A document with a right checksum."""
    header = {"format": 1, "blake2b": cached_state._checksum(body)}
    return json.dumps(header).encode() + b"\n" + body + b"\n"


def body(**changes: object) -> bytes:
    """The document's content with another instance."""
    tree = json.loads(DOCUMENT.splitlines()[1])
    tree["state"]["kept"]["triton"]["instances"][0] |= changes
    return json.dumps(tree).encode()


def test_what_was_kept_comes_back() -> None:
    assert cached_state.load(DOCUMENT, SERVICES) == (STATE, 1_700_000_000)


def test_of_other_services_it_says_nothing() -> None:
    with pytest.raises(UnusableState, match="expected the services x, y, found triton, other"):
        cached_state.load(DOCUMENT, iter(("x", "y")))


def test_a_changed_list_of_services_costs_nothing_that_is_known() -> None:
    assert cached_state.load(DOCUMENT, iter(("new", "triton")))[0] == replace(
        STATE, services=("triton",)
    )
    assert cached_state.load(DOCUMENT, ("other", "new"))[0] == CachedState(("other",), {}, "east")


@pytest.mark.parametrize(("key", "without"), [("zone", None), ("rollbacks", {})])
def test_what_an_older_version_has_kept_can_be_read(key: str, without: object) -> None:
    tree = json.loads(DOCUMENT.splitlines()[1])
    del tree["state"][key]
    document = resealed(json.dumps(tree).encode())
    assert cached_state.load(document, SERVICES)[0] == replace(STATE, **{key: without})  # type: ignore[arg-type]


def test_what_an_older_version_has_kept_of_an_instance_can_be_read() -> None:
    tree = json.loads(DOCUMENT.splitlines()[1])
    for each in tree["state"]["kept"]["triton"]["instances"]:
        del each["ill"]
    assert cached_state.load(resealed(json.dumps(tree).encode()), SERVICES)[0] == STATE


def test_what_an_older_version_has_kept_of_a_service_can_be_read() -> None:
    tree = json.loads(DOCUMENT.splitlines()[1])
    del tree["state"]["kept"]["triton"]["since"]
    read, _ = cached_state.load(resealed(json.dumps(tree).encode()), SERVICES)
    assert read.kept["triton"] == replace(KEPT, since=PolicyIndexes())


def test_unknown_fields_of_a_newer_version_are_ignored() -> None:
    tree = json.loads(DOCUMENT.splitlines()[1])
    for part in (tree, tree["state"], tree["state"]["rollbacks"]["triton"]):
        part["more"] = {"of": "it"}
    assert cached_state.load(resealed(json.dumps(tree).encode()), SERVICES)[0] == STATE


def test_a_rollback_of_a_service_that_is_not_followed_is_nonsense() -> None:
    nonsense = cached_state.dump(replace(STATE, rollbacks={"stranger": ROLLBACKS["triton"]}), 0.0)
    with pytest.raises(CorruptState):
        cached_state.load(nonsense, SERVICES)


def test_another_format_is_not_guessed_at() -> None:
    with pytest.raises(UnusableState, match="expected format 1, found 2") as caught:
        cached_state.load(b'{"format": 2, "sha": "x"}\nwhatever\n', SERVICES)
    assert not isinstance(caught.value, CorruptState)


@pytest.mark.parametrize("cut", [0, 1, 50, 100, len(DOCUMENT) // 2, len(DOCUMENT) - 2])
def test_a_document_that_was_cut_short_is_spoilt(cut: int) -> None:
    with pytest.raises(CorruptState):
        cached_state.load(DOCUMENT[:cut], SERVICES)


@given(st.integers(0, len(DOCUMENT) - 2), st.integers(1, 255))
def test_a_bit_that_fell_over_is_noticed(place: int, flip: int) -> None:
    changed = bytearray(DOCUMENT)
    changed[place] ^= flip
    try:
        found, _ = cached_state.load(bytes(changed), SERVICES)
    except UnusableState:
        return
    assert found == STATE  # it was in the header, where nothing depends on it


@given(st.binary() | st.binary().map(resealed))
@example(b"\n")
@example(resealed(b"{}"))
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(UnusableState):
        cached_state.load(garbage, SERVICES)


@pytest.mark.parametrize(
    "changes",
    [
        {"address": "gpu-1.local"},
        {"address": "0.0.0.0"},
        {"port": 0},
        {"health_port": 70_000},
        {"weight": 0},
        {"capacity": -1},
        {"health": "splendid"},
        {"id": "dc2/b"},
        {"port": None},
    ],
)
def test_what_envoy_would_reject_is_rejected_here(changes: dict[str, object]) -> None:
    assert cached_state.load(resealed(body()), SERVICES)[0] == STATE
    with pytest.raises(CorruptState):
        cached_state.load(resealed(body(**changes)), SERVICES)


# --- the file -----------------------------------------------------------------------------------


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


async def test_a_missing_folder_is_reported(scene: Scene) -> None:
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
