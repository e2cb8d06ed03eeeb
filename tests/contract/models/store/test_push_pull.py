"""A model that is pushed, and pulled again: the same, by any place."""

import errno
import fcntl
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.models.store import contents, naming, transfer
from sidecar.models.store import pull as pull_module
from sidecar.models.store.documents import layout, names, snapshot
from sidecar.models.store.model_folder.materialize import How
from sidecar.models.store.naming import NamingRequest
from sidecar.models.store.places import location
from sidecar.models.store.places.backend import Backend
from sidecar.models.store.progress import Progress
from sidecar.models.store.pull import Pulled
from sidecar.models.store.pull import pull as pull_
from sidecar.models.store.retention import RetentionRules
from sidecar.models.store.transfer import Chosen
from sidecar.runtime.errors import ConfigError, Conflict, Corrupt, NotFound
from tests.support import model_stores
from tests.support.model_stores import CREATED, FILES, collect, push, resolve, verify

Open = Callable[[], Backend]


def pull(
    store: Backend, target: Path, name: str = "chat:v1", copy: bool = False, replace: bool = False
) -> Pulled:
    return pull_(store, resolve(store, name), target, Progress(), copy=copy, replace=replace)


def test_what_is_pulled_is_what_was_pushed(store: Backend, model: Path, tmp_path: Path) -> None:
    (model / "3").mkdir()
    (model / "1" / "empty").touch()
    (model / "1" / "run.sh").write_text("#!/bin/sh")
    (model / "1" / "run.sh").chmod(0o755)
    done = push(store, model)
    assert not done.known
    pull(store, target := tmp_path / "pulled")
    assert model_stores.content(target) == model_stores.content(model)
    assert (target / "3").is_dir()
    modes = {path.name: path.stat().st_mode & stat.S_IXUSR for path in (target / "1").iterdir()}
    assert {name for name, executable in modes.items() if executable} == {"run.sh"}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert verify(store).damages == ()


def test_nothing_is_sent_twice(store: Backend, model: Path) -> None:
    first = push(store, model)
    assert (first.new, first.present) == (sum(first.stored.snapshot.blobs.values()), 0)
    (model / "1" / "model.py").write_bytes(b"three")
    second = push(store, model, "chat:v2")
    assert second.new == len(b"three")
    assert not second.known


def test_the_same_push_again_is_the_same_snapshot(store: Backend, model: Path) -> None:
    first = push(store, model)
    again = push(store, model)
    assert (again.known, again.new, again.stored) == (True, 0, first.stored)


def test_a_name_does_not_move_unless_told(store: Backend, model: Path) -> None:
    first = push(store, model)
    (model / "1" / "model.py").write_bytes(b"changed")
    blobs = len(list(store.items(layout.BLOBS)))
    with pytest.raises(Conflict):
        push(store, model)
    assert len(list(store.items(layout.BLOBS))) == blobs
    assert resolve(store) == first.stored
    second = push(store, model, move=True)
    assert resolve(store) == second.stored != first.stored


def test_a_pull_again_changes_nothing(store: Backend, model: Path, tmp_path: Path) -> None:
    push(store, model)
    pull(store, target := tmp_path / "pulled")
    inode = target.stat().st_ino
    assert pull(store, target).known
    assert target.stat().st_ino == inode


def test_another_folder_is_replaced_only_if_told(
    store: Backend, model: Path, tmp_path: Path
) -> None:
    push(store, model)
    pull(store, target := tmp_path / "pulled", copy=True)
    (target / "1" / "model.py").write_bytes(b"edited")
    with pytest.raises(Conflict):
        pull(store, target)
    assert (target / "1" / "model.py").read_bytes() == b"edited"
    assert not pull(store, target, replace=True).known
    assert model_stores.content(target) == FILES
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] == ".") == []


def test_what_cannot_be_removed_stops_no_pull(
    store: Backend, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As bytecode that a Triton in a container writes as root."""

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    push(store, model)
    pull(store, target := tmp_path / "pulled", copy=True)
    left = []
    with monkeypatch.context() as patch:
        patch.setattr(pull_module, "remove_tree", refuse)
        for _ in range(2):
            (target / "1" / "model.py").unlink()
            left.append(pull(store, target, copy=True, replace=True).left)
            assert model_stores.content(target) == FILES
    hidden = {path for path in tmp_path.iterdir() if path.name.startswith(".")}
    assert hidden == set(left)
    assert len(hidden) == 2
    assert pull(store, target).known
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_two_pulls_of_one_folder_are_one(store: Backend, model: Path, tmp_path: Path) -> None:
    stored = push(store, model).stored
    lock = tmp_path / f".pulled.{stored.digest[:16]}.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Conflict, match="another pull"):
            pull(store, tmp_path / "pulled")
    pull(store, tmp_path / "pulled")  # the other one has died
    assert not lock.exists()


def test_only_the_folder_of_a_model_is_replaced(
    store: Backend, model: Path, tmp_path: Path
) -> None:
    push(store, model)
    (repository := tmp_path / "repository").mkdir()
    model_stores.model(repository / "chat", {"config.pbtxt": b"", "1/model.py": b""})
    model_stores.model(repository / "embedder", {"1/model.py": b""})
    model_stores.model(home := tmp_path / "home", {"letters/one": b""})
    (link := tmp_path / "link").symlink_to(repository / "chat")
    (file := tmp_path / "file").touch()
    refusals = {repository: "'chat', 'embedder'", home: "letters", link: "link to", file: "file"}
    for target, why in refusals.items():
        before = model_stores.content(tmp_path)
        with pytest.raises(Conflict, match=f"not replaced: .*{why}"):
            pull(store, target, replace=True)
        assert model_stores.content(tmp_path) == before
    assert link.is_symlink()
    (empty := tmp_path / "none").mkdir()
    for target in (repository / "chat", repository / "embedder", empty):
        pull(store, target, replace=True)
        assert model_stores.content(target) == FILES


def test_a_model_may_have_folders_with_numbers(store: Backend, model: Path, tmp_path: Path) -> None:
    model_stores.model(model, {"adapters/1/weights": b"x"})
    push(store, model)
    pull(store, target := tmp_path / "pulled", copy=True)
    (target / "1" / "model.py").write_bytes(b"edited")
    pull(store, target, replace=True)
    assert model_stores.content(target) == model_stores.content(model)


def test_more_files_than_the_snapshot_has_are_another_folder(
    store: Backend, model: Path, tmp_path: Path
) -> None:
    push(store, model)
    pull(store, target := tmp_path / "pulled", copy=True)
    (target / "1" / "__pycache__").mkdir()  # as Triton's Python backend does
    (target / "1" / "__pycache__" / "model.cpython-311.pyc").touch()
    (target / ".nfs0001").touch()
    assert pull(store, target).known
    (target / "1" / "more.bin").touch()
    with pytest.raises(Conflict):
        pull(store, target)


def test_a_corrupt_blob_is_told_and_not_used(store: Backend, model: Path, tmp_path: Path) -> None:
    stored = push(store, model).stored
    [file] = [each for each in stored.snapshot.files if each.path == "1/weights.bin"]
    content = FILES["1/weights.bin"]
    store.put(layout.blob(file.digest), content[:-1] + b"x")
    with pytest.raises(Corrupt, match=r"1/weights\.bin.*" + file.digest):
        pull(store, target := tmp_path / "pulled")
    assert not target.exists()
    [damage] = verify(store, "chat:v1").damages
    assert damage.path == "1/weights.bin"
    assert damage.expected == names.of_digest(file.digest) != damage.found
    assert stored.digest in damage.snapshot
    assert push(store, model).new == 0  # which looks at sizes alone
    assert push(store, model, verify=True).new == len(content)
    assert verify(store).damages == ()
    pull(store, target)


def test_a_blob_that_was_cut_off_is_sent_again(store: Backend, model: Path) -> None:
    stored = push(store, model).stored
    store.put(layout.blob(stored.snapshot.files[1].digest), b"")
    assert verify(store).damages
    push(store, model)
    assert verify(store).damages == ()


def test_a_missing_blob_is_told(store: Backend, model: Path, tmp_path: Path) -> None:
    stored = push(store, model).stored
    store.remove(layout.blob(stored.snapshot.files[1].digest))
    assert [damage.found for damage in verify(store).damages] == ["missing"]
    with pytest.raises(NotFound):
        pull(store, tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()


def test_a_corrupt_manifest_is_told(store: Backend, model: Path) -> None:
    stored = push(store, model).stored
    model_stores.damage(store, layout.manifest(stored.digest), b"{}")
    with pytest.raises(Corrupt):
        resolve(store)
    assert [damage.path for damage in verify(store, "chat:v1").damages] == [""]
    assert [damage.path for damage in verify(store).damages] == [""]
    with pytest.raises(Corrupt):  # what it needs is unknown
        collect(store)


def test_a_corrupt_manifest_hides_no_other_model(store: Backend, model: Path) -> None:
    damaged = push(store, model).stored
    model_stores.damage(store, layout.manifest(damaged.digest), b"{}")
    embedder = push(store, model, "embedder:v1").stored
    for name in ("embedder", f"embedder@sha256:{embedder.digest[:8]}"):
        assert resolve(store, name) == embedder
    with pytest.raises(Corrupt, match=damaged.digest):
        resolve(store, "chat")


def test_names_and_digests_find_a_snapshot(store: Backend, model: Path) -> None:
    stored = push(store, model).stored
    for name in ("chat", f"chat@sha256:{stored.digest}", f"chat@sha256:{stored.digest[:8]}"):
        assert resolve(store, name) == stored
    for name in ("chat:v2", "other", f"other@sha256:{stored.digest}", f"chat@sha256:{'0' * 64}"):
        with pytest.raises(NotFound):
            resolve(store, name)
    (model / "1" / "model.py").write_bytes(b"changed")
    push(store, model, "chat")
    second = push(store, model, "chat:v3").stored
    with pytest.raises(ConfigError) as error:
        resolve(store, "chat")
    for each in (stored, second):
        assert str(each) in str(error.value)


def test_a_snapshot_gets_more_names(store: Backend, model: Path) -> None:
    stored = push(store, model).stored
    request = NamingRequest(names.reference("chat:prod"), CREATED, "another")
    assert naming.tag(store, stored, request)
    assert not naming.tag(store, stored, request)
    assert resolve(store, "chat:prod") == stored
    (model / "1" / "model.py").write_bytes(b"changed")
    other = push(store, model, "chat:v2").stored
    with pytest.raises(Conflict):
        naming.tag(store, other, request)
    naming.remove(store, names.reference("chat:prod"))
    with pytest.raises(NotFound):
        naming.remove(store, names.reference("chat:prod"))


def test_a_snapshot_whose_blob_is_gone_gets_no_name(store: Backend, model: Path) -> None:
    stored = push(store, model, "chat").stored
    store.remove(layout.blob(stored.snapshot.files[0].digest))
    with pytest.raises(NotFound):
        naming.tag(store, stored, NamingRequest(names.reference("chat:v1"), CREATED, "another"))
    with pytest.raises(NotFound):
        resolve(store)


def test_what_no_name_needs_is_collected(store: Backend, model: Path, tmp_path: Path) -> None:
    stored = []
    for version in range(4):
        (model / "1" / "model.py").write_bytes(f"{version}".encode())
        stored.append(push(store, model, move=True).stored)
    if hasattr(store, "clock"):
        store.clock += 2.0
    assert collect(store, RetentionRules(grace=3600.0)).snapshots == ()
    rules = RetentionRules(last=2, keep=frozenset({stored[0].digest}), grace=-1.0)
    assert [each.digest for each in collect(store, rules, dry_run=True).snapshots] == [
        stored[1].digest
    ]
    done = collect(store, rules)
    assert ([each.digest for each in done.snapshots], done.blobs) == ([stored[1].digest], 1)
    assert verify(store).damages == ()
    assert collect(store, rules).snapshots == ()
    for each in (stored[0], stored[2], stored[3]):
        name = f"chat@sha256:{each.digest}"
        pull(store, tmp_path / each.digest, name)


def test_a_store_is_copied_to_another_place(
    store: Backend, model: Path, tmp_path: Path, s3: str
) -> None:
    """Offsite, and back when the first one is lost."""
    push(store, model)
    stored = resolve(store)
    for place in (location.backend(f"{s3}-copy"), location.backend(str(tmp_path / "restored"))):
        [sent] = transfer.copy(store, place, transfer.chosen(store, []), Progress())
        assert sent.new == sum(stored.snapshot.blobs.values())
        [again] = transfer.copy(store, place, transfer.chosen(store, []), Progress())
        assert (again.new, again.tags) == (0, ("v1",))
        assert resolve(place) == stored
        assert verify(place).damages == ()
        store = place


def test_a_copy_again_moves_names_on_with_their_history(
    store: Backend, model: Path, tmp_path: Path
) -> None:
    other = location.backend(str(tmp_path / "other"))
    stored = []
    for version in range(3):
        (model / "1" / "model.py").write_bytes(f"{version}".encode())
        stored.append(push(store, model, move=True).stored.digest)
        if version != 1:
            transfer.copy(store, other, transfer.chosen(store, []), Progress())
    assert contents.tag_of(other, "chat", "v1") == contents.tag_of(store, "chat", "v1")
    assert resolve(other).digest == stored[2]
    for digest in stored:  # those before can be pulled
        pull(other, tmp_path / digest, f"chat@sha256:{digest}")


def test_a_name_that_differs_stops_no_other_of_a_copy(
    store: Backend, model: Path, tmp_path: Path
) -> None:
    other = location.backend(str(tmp_path / "other"))
    theirs = push(other, model, "chat:v1").stored
    (model / "1" / "model.py").write_bytes(b"changed")
    ours = push(store, model, "chat:v1").stored
    push(store, model, "embedder:v1")
    done = transfer.copy(store, other, transfer.chosen(store, []), Progress())
    assert [each.tags for each in done] == [(), ("v1",)]
    assert [theirs.digest in conflict for each in done for conflict in each.conflicts] == [True]
    assert resolve(other) == theirs
    assert resolve(other, "embedder:v1") == resolve(store, "embedder:v1")
    transfer.copy(store, other, transfer.chosen(store, []), Progress(), move=True)
    assert resolve(other) == ours
    tag = contents.tag_of(other, "chat", "v1")
    assert tag is not None
    assert tag.last(2) == (ours.digest, theirs.digest)


def test_a_manifest_of_a_later_version_is_copied_as_it_is(
    store: Backend, model: Path, tmp_path: Path
) -> None:
    document = json.loads(contents.manifest(store, push(store, model).stored.digest))
    manifest = json.dumps({**document, "later": "field"}).encode()
    digest = snapshot.digest(manifest)
    store.put(layout.manifest(digest), manifest)
    other = location.backend(str(tmp_path / "other"))
    stored = resolve(store, f"chat@sha256:{digest}")
    transfer.copy(store, other, [Chosen(stored, {})], Progress())
    assert contents.manifest(other, digest) == manifest
    assert verify(other).damages == ()


def test_a_corrupt_blob_is_not_copied(store: Backend, model: Path, tmp_path: Path) -> None:
    stored = push(store, model).stored
    file = stored.snapshot.files[1]
    store.put(layout.blob(file.digest), b"x" * file.size)
    other = location.backend(str(tmp_path / "other"))
    with pytest.raises(Corrupt, match=file.path):
        transfer.copy(store, other, [Chosen(stored, {})], Progress())
    assert not list(other.items(layout.MANIFESTS))


def test_canaries_travel_with_a_model(store: Backend, model: Path, tmp_path: Path) -> None:
    (model / "canary.toml").write_text("[canary.chat]")
    (model / "canary.y.npy").write_bytes(b"array")
    stored = push(store, model).stored
    assert [file.path for file in stored.snapshot.canaries] == ["canary.toml", "canary.y.npy"]
    assert "canary.toml" not in [file.path for file in stored.snapshot.files]
    pull(store, target := tmp_path / "pulled")
    assert (target / "canary.y.npy").read_bytes() == b"array"


def test_files_of_a_folder_are_links_and_read_only(model: Path, tmp_path: Path) -> None:
    store = location.backend(str(tmp_path / "store"))
    push(store, model)
    made = pull(store, target := tmp_path / "pulled").made
    if How.REFLINK in made:
        pytest.skip("this file system has reflinks")
    assert set(made) == {How.LINK}
    for path in target.rglob("*"):
        if path.is_file():
            assert path.stat().st_nlink > 1
            assert not path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    pull(store, copied := tmp_path / "copied", copy=True)
    assert all(path.stat().st_nlink == 1 for path in copied.rglob("*") if path.is_file())
    assert os.access(copied / "config.pbtxt", os.W_OK)


def test_a_read_only_store_can_be_pulled_from(model: Path, tmp_path: Path) -> None:
    store = location.backend(str(tmp_path / "store"))
    push(store, model)
    before = sorted((tmp_path / "store").rglob("*"))
    pull(store, tmp_path / "pulled", copy=True)
    verify(store)
    assert sorted((tmp_path / "store").rglob("*")) == before
