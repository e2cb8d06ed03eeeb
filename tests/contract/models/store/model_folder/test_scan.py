"""What a model's folder may have, and what is one clear error before anything is named."""

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from sidecar.models.store.documents import layout, snapshot
from sidecar.models.store.model_folder import scan
from sidecar.models.store.places import location
from sidecar.models.store.places.backend import Backend
from sidecar.runtime.errors import ConfigError, Conflict
from tests.support import model_stores
from tests.support.memory_store import MemoryBackend
from tests.support.model_stores import push


@pytest.fixture
def memory() -> MemoryBackend:
    return MemoryBackend()


def paths(store: Backend, model: Path) -> list[str]:
    return [file.path for file in push(store, model).stored.snapshot.files]


def test_links_are_followed_as_in_a_cache_of_hugging_face(
    memory: MemoryBackend, model: Path, tmp_path: Path
) -> None:
    cache = model_stores.model(tmp_path / "cache", {"blobs/abc": b"weights", "more/x": b"x"})
    (model / "1" / "linked.bin").symlink_to(cache / "blobs" / "abc")
    (model / "1" / "relative.bin").symlink_to("linked.bin")
    (model / "3").symlink_to(cache / "more")
    found = paths(memory, model)
    assert {"1/linked.bin", "1/relative.bin", "3/x"} <= set(found)


def test_what_triton_does_not_read_is_left_out(memory: MemoryBackend, model: Path) -> None:
    model_stores.model(
        model, {".gitattributes": b"", "1/__pycache__/x.pyc": b"", "1/y.pyc": b"", "4/.keep": b""}
    )
    stored = push(memory, model).stored.snapshot
    assert [file.path for file in stored.files] == sorted(model_stores.FILES)
    assert stored.folders == ("4",)


def broken_link(model: Path) -> Path:
    (path := model / "1" / "odd").symlink_to("nowhere")
    return path


def link_to_itself(model: Path) -> Path:
    (path := model / "1" / "odd").symlink_to("odd")
    return path


def link_to_its_folder(model: Path) -> Path:
    (path := model / "1" / "odd").symlink_to("..")
    return path


def pipe(model: Path) -> Path:
    os.mkfifo(path := model / "1" / "odd")
    return path


def listening(model: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(model / "1")
        try:
            made.bind("odd")
        finally:
            os.chdir(here)
    return model / "1" / "odd"


def device(model: Path) -> Path:
    (path := model / "1" / "odd").symlink_to("/dev/zero")
    return path


def not_utf8(model: Path) -> Path:
    (Path(os.fsdecode(os.fsencode(model) + b"/1/odd\xff"))).touch()
    return model / "1"


ODD = [broken_link, link_to_itself, link_to_its_folder, pipe, listening, device, not_utf8]


@pytest.mark.parametrize("make", ODD, ids=lambda make: make.__name__)
def test_what_no_snapshot_can_hold(
    memory: MemoryBackend, model: Path, make: Callable[[Path], Path]
) -> None:
    path = make(model)
    with pytest.raises(ConfigError) as found:
        push(memory, model)
    assert str(path) in str(found.value)
    assert not memory.stored


@pytest.mark.parametrize("name", ["missing", "file", "empty"])
def test_what_is_no_model(memory: MemoryBackend, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=name):
        push(memory, tmp_path / name)


def test_a_file_that_grows_while_it_is_read(memory: MemoryBackend, model: Path) -> None:
    [file] = [each for each in scan.model(model).files if each.name == "1/weights.bin"]
    reading = scan.read(file)
    next(reading)
    with file.path.open("ab") as growing:
        growing.write(b"more")
    with pytest.raises(Conflict, match="weights"):
        list(reading)


def test_a_file_that_is_replaced_before_it_is_read(memory: MemoryBackend, model: Path) -> None:
    [file] = [each for each in scan.model(model).files if each.name == "1/weights.bin"]
    (new := model / "new").write_bytes(bytes(file.size))
    os.utime(new, ns=(file.stamp.modified, file.stamp.modified))
    new.rename(file.path)
    with pytest.raises(Conflict, match="weights"):
        list(scan.read(file))


def test_a_writer_next_to_a_push_never_makes_a_mixture(store: Backend, model: Path) -> None:
    """Every push that succeeds has files as they were at one time, each of them."""
    versions = [bytes([number]) * 300_000 for number in range(2)]
    (path := model / "1" / "weights.bin").write_bytes(versions[0])
    with _writing(path, versions):
        for number in range(10):
            with suppress(Conflict):
                push(store, model, f"chat:v{number}")
    for item in store.items(layout.BLOBS):
        if item.size == len(versions[0]):
            assert b"".join(store.chunks(item.key)) in versions


class _writing:
    """Replace a file again and again, during the context, as rsync does."""

    def __init__(self, path: Path, versions: list[bytes]) -> None:
        self._path, self._versions = path, versions
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._end.is_set():
            number += 1
            new = self._path.with_name(".new")
            new.write_bytes(self._versions[number % 2])
            new.rename(self._path)
            time.sleep(0.01)


def test_a_folder_with_something_else_is_no_store(model: Path, tmp_path: Path) -> None:
    repository = model_stores.model(tmp_path / "repository" / "chat").parent
    with pytest.raises(ConfigError, match="repository"):
        push(location.backend(str(repository)), model)
    with pytest.raises(ConfigError, match="unmounted"):
        push(location.backend(str(tmp_path / "unmounted" / "store")), model)
    assert [path.name for path in repository.iterdir()] == ["chat"]


def test_a_manifest_that_nobody_could_read_is_refused_before_anything_is_stored(
    memory: MemoryBackend, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = len(snapshot.dump(push(MemoryBackend(), model).stored.snapshot))
    monkeypatch.setattr(snapshot, "LARGEST", manifest - 1)
    with pytest.raises(ConfigError, match="manifest"):
        push(memory, model)
    assert not memory.stored
    monkeypatch.setattr(snapshot, "LARGEST", manifest)
    push(memory, model)
