"""Writers and collectors at the same moment."""

import errno
import fcntl
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event

import pytest

from sidecar.models.store import contents, naming
from sidecar.models.store.documents import layout, names
from sidecar.models.store.naming import NamingRequest
from sidecar.models.store.places.backend import Backend
from sidecar.models.store.progress import Progress
from sidecar.models.store.pull import pull
from sidecar.models.store.retention import RetentionRules
from sidecar.runtime.errors import Conflict, SidecarError
from tests.support import model_stores
from tests.support.model_stores import CREATED, FILES, push, resolve, verify
from tests.support.soak import times

Open = Callable[[], Backend]
_ROUNDS = times(3, soaking=30)
_OLD = 30 * 86400.0  # seconds


@pytest.fixture(params=["folder", "bucket"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    bucket = request.param == "bucket"
    place = request.getfixturevalue("s3") if bucket else str(tmp_path / "store")
    return lambda: model_stores.opened(place)


def together(*works: Callable[[], object]) -> list[BaseException | None]:
    """The errors of works that begin at the same moment."""
    barrier = Barrier(len(works))

    def begin(work: Callable[[], object]) -> None:
        barrier.wait()
        work()

    with ThreadPoolExecutor(len(works)) as pool:
        return [each.exception() for each in [pool.submit(begin, work) for work in works]]


def test_two_push_the_same_at_once(open_store: Open, model: Path) -> None:
    for number in range(_ROUNDS):
        (model / "1" / "model.py").write_text(f"{number}")
        one = pushing(open_store, model, f"chat:v{number}")
        assert together(one, one) == [None, None]
        assert verify(open_store()).damages == ()


def pushing(open_store: Open, model: Path, name: str) -> Callable[[], object]:
    return lambda: push(open_store(), model, name)


def test_two_push_different_files_of_one_name(open_store: Open, tmp_path: Path) -> None:
    """One of them gets the name; the other one is refused."""
    models = [
        model_stores.model(tmp_path / f"{each}", {**FILES, "1/x": bytes([each])}) for each in (1, 2)
    ]
    for number in range(_ROUNDS):
        errors = together(*(pushing(open_store, each, f"chat:v{number}") for each in models))
        assert sorted(type(each).__name__ for each in errors) == ["Conflict", "NoneType"]
        assert verify(open_store()).damages == ()


def test_two_move_one_name(open_store: Open, model: Path) -> None:
    """None is lost: the history has both."""
    stored = []
    for number in range(3):
        (model / "1" / "model.py").write_text(f"{number}")
        stored.append(push(open_store(), model, f"chat:v{number}").stored)
    store, prod = open_store(), names.reference("chat:prod")
    naming.tag(store, stored[0], NamingRequest(prod, CREATED, "somebody"))

    def move(number: int) -> object:
        request = NamingRequest(prod, CREATED, f"{number}", move=True)
        return naming.tag(open_store(), stored[number], request)

    assert together(lambda: move(1), lambda: move(2)) == [None, None]
    tag = contents.tag_of(store, "chat", "prod")
    assert tag is not None
    assert set(tag.last(9)) == {each.digest for each in stored}


def test_a_collector_never_takes_what_a_push_reuses(
    open_store: Open, model: Path, tmp_path: Path
) -> None:
    """Its files are those of old unnamed snapshots, which `gc` removes at the same time."""
    end = Event()

    def collect() -> None:
        store = open_store()
        while not end.is_set():
            model_stores.collect(store, RetentionRules(last=1, grace=grace))
            time.sleep(0.2)

    grace = 0.0 if not isinstance(open_store().path("x"), Path) else 3600.0
    for number in range(_ROUNDS):
        (model / "1" / "model.py").write_text(f"{number}")
        push(open_store(), model, "chat")
        _age(tmp_path / "store")
        end.clear()
        with ThreadPoolExecutor(1) as pool:
            collecting = pool.submit(collect)
            try:
                push(open_store(), model, f"chat:v{number}")
            finally:
                end.set()
            collecting.result()
        assert verify(open_store(), f"chat:v{number}").damages == ()


def _age(folder: Path) -> None:
    old = time.time() - _OLD
    for kind in (layout.BLOBS, layout.MANIFESTS):
        for path in (folder / kind).rglob("*"):
            if path.is_file():
                os.utime(path, (old, old))


def test_two_pull_to_one_folder(open_store: Open, model: Path, tmp_path: Path) -> None:
    push(open_store(), model)
    for number in range(_ROUNDS):
        target = tmp_path / f"pulled-{number}"

        def one(target: Path = target) -> None:
            pull(open_store(), resolve(open_store()), target, Progress(), copy=True)

        errors = together(one, one)
        assert None in errors
        assert all(error is None or isinstance(error, Conflict) for error in errors)
        assert model_stores.content(target) == FILES
        one()


def test_a_pull_of_what_is_collected_fails_and_leaves_nothing(
    open_store: Open, model: Path, tmp_path: Path
) -> None:
    stored = push(open_store(), model, "chat").stored
    store = open_store()
    with store.sweeping():
        store.sweep([layout.blob(digest) for digest in stored.snapshot.blobs], store.now() + 60)
    with pytest.raises(SidecarError):
        pull(store, stored, tmp_path / "pulled", Progress())
    assert not (tmp_path / "pulled").exists()


def test_where_files_cannot_be_locked_everything_works_without(
    open_store: Open, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on some network file systems; waiting for a lock there would never end."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    stored = push(open_store(), model).stored
    request = NamingRequest(names.reference("chat:prod"), CREATED, "somebody")
    naming.tag(open_store(), stored, request)
    pull(open_store(), stored, tmp_path / "pulled", Progress())
    model_stores.collect(open_store(), RetentionRules(grace=3600.0))
    assert verify(open_store()).damages == ()
    assert model_stores.content(tmp_path / "pulled") == FILES
