"""A disk that is too small, or becomes full in the middle."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.drill.cluster.small_disk import filled, small_disk
from sidecar.models.store import pull as pull_module
from sidecar.models.store.documents import layout
from sidecar.models.store.model_folder.materialize import How
from sidecar.models.store.places.backend import Room
from sidecar.models.store.places.folder import FolderBackend
from sidecar.models.store.progress import Progress
from sidecar.models.store.pull import pull
from sidecar.runtime.amounts import in_bytes
from sidecar.runtime.errors import NoRoom
from tests.support import model_stores
from tests.support.model_stores import FILES, push, resolve, verify

_DISK = 16 * 2**20  # bytes
_TOO_LARGE = {**FILES, "1/large.bin": os.urandom(20 * 2**20)}
_ROOMY = Room(2**40, 2**41)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk."""
    (folder := tmp_path / "small").mkdir()
    with small_disk(folder, (), _DISK):
        # Its path leads through /proc: resolved, it would be a folder of the machine's disk.
        found = os.statvfs(disk := folder / "disk")
        assert found.f_blocks * found.f_frsize <= _DISK
        yield disk


@pytest.fixture
def large(tmp_path: Path) -> Path:
    return model_stores.model(tmp_path / "large", _TOO_LARGE)


def used(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file() and path.stat().st_size]


def test_a_push_that_does_not_fit_is_refused_with_the_figures(disk: Path, large: Path) -> None:
    store = FolderBackend(disk / "store")
    with pytest.raises(NoRoom, match=in_bytes(sum(map(len, _TOO_LARGE.values())))):
        push(store, large)
    assert used(disk / "store") == ["store.json"]


def test_a_disk_that_becomes_full_leaves_a_whole_store(
    disk: Path, large: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderBackend(disk / "store")
    push(store, model, "chat:before")
    with monkeypatch.context() as context:
        context.setattr(store, "room", lambda: _ROOMY)
        with pytest.raises(NoRoom):
            push(store, large)
    assert [path.name for path in (disk / "store" / layout.PARTIAL).iterdir()] == ["claims"]
    assert verify(store).damages == ()
    (large / "1" / "large.bin").write_bytes(b"smaller")
    push(store, large)
    assert verify(store, "chat:v1").damages == ()


def test_a_full_disk_takes_no_document(disk: Path, model: Path) -> None:
    store = FolderBackend(disk / "store")
    stored = push(store, model).stored
    with filled(disk / "filler"), pytest.raises(NoRoom):
        store.put(layout.name("chat", "v2"), bytes(2**16))
    assert resolve(store) == stored
    assert verify(store).damages == ()


def test_a_pull_that_does_not_fit_is_refused(disk: Path, large: Path, tmp_path: Path) -> None:
    store = FolderBackend(tmp_path / "store")
    stored = push(store, large).stored
    with pytest.raises(NoRoom):
        pull(store, stored, disk / "pulled", Progress())
    assert not (disk / "pulled").exists()
    assert used(disk) == []


def test_a_disk_that_becomes_full_during_a_pull(
    disk: Path, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderBackend(tmp_path / "store")
    stored = push(store, large).stored
    monkeypatch.setattr(pull_module, "room_at", lambda _: _ROOMY)
    with pytest.raises(NoRoom):
        pull(store, stored, disk / "pulled", Progress())
    assert not (disk / "pulled").exists()
    assert "large.bin" not in used(disk)


def test_what_is_pulled_to_another_disk_is_a_copy(disk: Path, model: Path, tmp_path: Path) -> None:
    store = FolderBackend(tmp_path / "store")
    stored = push(store, model).stored
    assert set(pull(store, stored, disk / "pulled", Progress()).made) == {How.COPY}
    assert model_stores.content(disk / "pulled") == FILES


def test_links_need_no_room(disk: Path, model: Path) -> None:
    store = FolderBackend(disk / "store")
    stored = push(store, model).stored
    filler = disk / "filler"
    with filler.open("wb") as file:
        file.truncate(0)
        file.write(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - 2**18))
    pull(store, stored, disk / "pulled", Progress())
    assert model_stores.content(disk / "pulled") == FILES
