"""A push, a tag, a copy and a collection that end at any write leave a whole store, and resume."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.models.store import naming, transfer
from sidecar.models.store.documents import names
from sidecar.models.store.naming import NamingRequest
from sidecar.models.store.places.backend import Backend
from sidecar.models.store.progress import Progress
from sidecar.models.store.retention import RetentionRules
from sidecar.runtime.errors import NotFound
from tests.support import model_stores
from tests.support.memory_store import MemoryBackend, Stopped
from tests.support.model_stores import FILES

pytestmark = pytest.mark.files

OTHER = {**FILES, "1/model.py": b"other", "labels.txt": b"other", "1/more.bin": b"more"}
Verb = Callable[[Backend], object]


@dataclass
class Models:
    """Two models' folders, made once."""

    folder: Path
    v1: Path = field(init=False)
    v2: Path = field(init=False)

    def __post_init__(self) -> None:
        self.v1 = model_stores.model(self.folder / "v1")
        self.v2 = model_stores.model(self.folder / "v2", OTHER)

    def push(self, name: str, folder: Path) -> Verb:
        return lambda backend: model_stores.push(backend, folder, name, move=True)

    def copy_from(self, source: MemoryBackend) -> Verb:
        def copy(backend: Backend) -> None:
            transfer.copy(source, backend, transfer.chosen(source, []), Progress(), move=True)

        return copy


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))


def writes_of(verb: Verb, stored: dict[str, tuple[bytes, float]]) -> int:
    backend = MemoryBackend(dict(stored))
    verb(backend)
    return backend.writes


def stopped(verb: Verb, stored: dict[str, tuple[bytes, float]], at: int) -> MemoryBackend:
    backend = MemoryBackend(stored)
    backend.stop_at = at
    with suppress(Stopped):
        verb(backend)
    return MemoryBackend(stored)


@pytest.mark.parametrize("verb", ["push", "push over v1", "copy"])
def test_stopped_at_each_write_it_is_whole_and_the_same_command_ends_it(
    models: Models, verb: str
) -> None:
    before: dict[str, tuple[bytes, float]] = {}
    if verb != "push":
        model_stores.push(MemoryBackend(before), models.v1)
    source = MemoryBackend()
    model_stores.push(source, models.v2, "chat:v1")
    act = models.copy_from(source) if verb == "copy" else models.push("chat:v1", models.v2)
    total = writes_of(act, before)
    assert total > 3
    for at in range(total + 1):
        backend = stopped(act, dict(before), at)
        assert model_stores.verify(backend).damages == ()
        act(backend)
        assert model_stores.resolve(backend).snapshot.files
        assert model_stores.verify(backend).damages == ()
        assert model_stores.resolve(backend).snapshot.same_content(
            model_stores.resolve(source).snapshot
        )


def test_a_collection_stopped_at_each_write_leaves_all_that_is_named(models: Models) -> None:
    before: dict[str, tuple[bytes, float]] = {}
    model_stores.push(MemoryBackend(before), models.v1)
    model_stores.push(MemoryBackend(before), models.v2, "chat:v1", move=True)
    total = writes_of(model_stores.collect, before)
    assert total > 1
    for at in range(total + 1):
        backend = stopped(model_stores.collect, dict(before), at)
        assert model_stores.verify(backend).damages == ()
        model_stores.collect(backend)
        assert model_stores.verify(backend).damages == ()
        assert len(backend.stored) == 1 + 1 + 5  # the name, the manifest, the blobs of v2


@given(st.integers(0, 30), st.sampled_from([0.0, 3600.0]))
def test_a_collection_between_any_two_writes_of_a_push_takes_nothing_of_it(
    models: Models, at: int, grace: float
) -> None:
    """What the push reuses is an old snapshot that no name has."""
    stored: dict[str, tuple[bytes, float]] = {}
    model_stores.push(MemoryBackend(stored), models.v1, "chat")
    backend = MemoryBackend(stored)
    backend.clock += 2 * 3600.0

    def collect() -> None:
        if backend.writes == at:
            other = MemoryBackend(stored)
            other.clock = backend.clock + 1.0
            model_stores.collect(other, RetentionRules(grace=max(grace, 2.0)))

    backend.between = collect
    model_stores.push(backend, models.v2, "chat:v2")
    assert model_stores.verify(backend, "chat:v2").damages == ()


@given(st.integers(0, 10))
def test_a_name_given_between_any_two_writes_of_a_collection_is_whole(
    models: Models, at: int
) -> None:
    """Either the snapshot is gone, and gets no name, or it has all of its blobs."""
    stored: dict[str, tuple[bytes, float]] = {}
    old = model_stores.push(MemoryBackend(stored), models.v1, "chat").stored
    backend = MemoryBackend(stored)
    backend.clock += 2 * 3600.0

    def tag() -> None:
        if backend.writes == at:
            other = MemoryBackend(stored)
            other.clock = backend.clock + 1.0
            request = NamingRequest(names.reference("chat:v1"), model_stores.CREATED, "somebody")
            with suppress(NotFound):
                naming.tag(other, old, request)

    backend.between = tag
    model_stores.collect(backend, RetentionRules(grace=60.0))
    backend.between = None
    assert model_stores.verify(backend).damages == ()
