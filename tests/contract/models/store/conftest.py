"""The places of stores: a folder, a bucket on a real S3 server, and the model of both."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sidecar.models.store.places.backend import Backend
from tests.support import model_stores, object_store
from tests.support.memory_store import MemoryBackend
from tests.support.object_store import ObjectStore

Open = Callable[[], Backend]


@pytest.fixture(scope="session")
def object_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A real S3 server; each test uses its own prefix."""
    with object_store.running(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty store in a bucket; the environment is as its clients need it."""
    server: ObjectStore = request.getfixturevalue("object_server")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://models/{uuid.uuid4().hex}"


@pytest.fixture(params=["folder", "bucket", "memory"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens one store, as each process does it for itself."""
    if request.param == "memory":
        stored: dict[str, tuple[bytes, float]] = {}
        return lambda: MemoryBackend(stored)
    bucket = request.param == "bucket"
    place = request.getfixturevalue("s3") if bucket else str(tmp_path / "store")
    return lambda: model_stores.opened(place)


@pytest.fixture
def store(open_store: Open) -> Backend:
    """An empty store."""
    found = open_store()
    found.prepare()
    return found


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The folder of a model."""
    return model_stores.model(tmp_path / "model")
