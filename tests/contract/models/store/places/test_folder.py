"""What a folder promises beyond the contract: no file of a blob is touched, and nobody waits."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from sidecar.models.store import naming, transfer
from sidecar.models.store.documents import layout, names
from sidecar.models.store.naming import NamingRequest
from sidecar.models.store.places.folder import FolderBackend
from sidecar.models.store.progress import Progress
from sidecar.models.store.pull import pull
from sidecar.models.store.retention import RetentionRules
from sidecar.runtime.errors import Rejected
from tests.support.model_stores import CREATED, collect, push, resolve, verify

_DAY = 86400.0  # seconds
_KEY = layout.blob(hashlib.sha256(b"x").hexdigest())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def place(folder: Path) -> FolderBackend:
    """A store with one blob."""
    store = FolderBackend(folder)
    store.prepare()
    store.write(_KEY, 1, [b"x"])
    return store


def stamps(folder: Path) -> dict[str, tuple[int, ...]]:
    """What Triton and the sidecar see of files, and more."""
    found: dict[str, tuple[int, ...]] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            now = path.stat()
            found[path.name] = (now.st_ino, now.st_mtime_ns, now.st_ctime_ns, now.st_nlink)
    return found


def test_no_verb_touches_a_file_that_a_triton_has(folder: Path, model: Path) -> None:
    """Pulled files may be links to blobs; other users can't set the time of a blob either."""
    store = FolderBackend(folder)
    stored = push(store, model).stored
    pull(store, stored, target := folder.parent / "pulled", Progress())
    before = stamps(target), stamps(folder / layout.BLOBS), stamps(folder / layout.MANIFESTS)
    naming.tag(store, stored, NamingRequest(names.reference("chat:prod"), CREATED, "another"))
    push(store, model)
    push(store, model, "chat:v1", verify=True)
    collect(store)
    (other := folder.parent / "other").mkdir()
    chosen = [transfer.Chosen(stored, {})]
    transfer.copy(FolderBackend(folder), FolderBackend(other), chosen, Progress())
    transfer.copy(FolderBackend(other), FolderBackend(folder), chosen, Progress())
    assert stamps(target) == before[0]
    assert stamps(folder / layout.BLOBS) == before[1]


def test_what_was_pulled_is_pushed_again(folder: Path, model: Path) -> None:
    store = FolderBackend(folder)
    push(store, model)
    pull(store, resolve(store), target := folder.parent / "pulled", Progress())
    assert push(FolderBackend(folder), target).known
    assert push(FolderBackend(folder), target, "chat:v2").new == 0


def test_a_claim_that_ends_while_a_sweep_plans_counts(folder: Path, place: FolderBackend) -> None:
    """Its writer may have named it after the sweep has listed names."""
    writer, cleaner = FolderBackend(folder), FolderBackend(folder)
    with cleaner.sweeping():
        writer.claim({_KEY})
        writer.release()
        assert cleaner.sweep([_KEY], cleaner.now() + 60) == set()
    with cleaner.sweeping():
        assert cleaner.sweep([_KEY], cleaner.now() + 60) == {_KEY}
    assert writer.claim({_KEY}) == {}


def test_a_claim_that_comes_while_a_blob_is_aside(
    folder: Path, place: FolderBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer finds nothing and stores the blob again, or the sweep puts it back."""
    writer, rename = FolderBackend(folder), Path.rename

    def claim_first(path: Path, target: Path) -> Path:
        moved = rename(path, target)
        if target.name.endswith(".swept"):
            assert writer.claim({_KEY}) == {}
        return moved

    monkeypatch.setattr(Path, "rename", claim_first)
    with place.sweeping():
        assert place.sweep([_KEY], place.now() + 60) == set()
    assert b"".join(place.chunks(_KEY)) == b"x"


def test_claims_end_after_a_day(folder: Path, place: FolderBackend) -> None:
    for _ in range(2):
        dead, done = FolderBackend(folder), FolderBackend(folder)
        dead.claim({_KEY})
        done.claim({_KEY})
        done.release()
        place.tidy()
    claims = folder / layout.PARTIAL / "claims"
    assert len(list(claims.iterdir())) == 6
    for path in claims.iterdir():
        os.utime(path, (time.time() - 2 * _DAY,) * 2)
    assert place.tidy() == 6
    assert list(claims.iterdir()) == []


def test_a_long_push_renews_its_claim(folder: Path, place: FolderBackend) -> None:
    writer = FolderBackend(folder)
    writer.claim({_KEY})
    [path] = (folder / layout.PARTIAL / "claims").iterdir()
    os.utime(path, (time.time() - 2 * _DAY,) * 2)
    writer._renewed -= _DAY
    writer.write(None, 1, [b"y"])
    assert place.tidy() == 0


def test_nothing_is_removed_while_a_claim_is_odd(folder: Path, place: FolderBackend) -> None:
    place.put(f"{layout.PARTIAL}/claims/odd.json", b"5")
    with place.sweeping(), pytest.raises(Rejected, match="odd"):
        place.sweep([_KEY], place.now() + 60)
    assert b"".join(place.chunks(_KEY)) == b"x"
    assert verify(place).damages == ()


def test_files_are_judged_by_the_clock_of_the_share(
    folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This machine's clock is a day ahead: what another one writes now is not abandoned."""
    store = FolderBackend(folder)
    push(store, model)
    (other := folder / layout.PARTIAL / "aaaaaaaa-other").touch()
    aside = folder / layout.PARTIAL / f"{_KEY.replace('/', '+')}+1.swept"
    aside.touch()
    now = time.time() + _DAY
    monkeypatch.setattr(time, "time", lambda: now)
    assert store.tidy() == 0
    assert other.exists()
    assert aside.exists()
    assert collect(store, RetentionRules(grace=3600.0)).snapshots == ()
