"""Names that are removed, or move to another snapshot."""

from pathlib import Path

import pytest

from sidecar.models.store import naming
from sidecar.models.store.documents import layout, names
from sidecar.models.store.naming import NamingRequest
from sidecar.models.store.retention import RetentionRules
from sidecar.runtime.errors import Conflict
from tests.support import model_stores
from tests.support.memory_store import MemoryBackend
from tests.support.model_stores import CREATED, FILES

pytestmark = pytest.mark.files
NAME = names.reference("chat:v1")
HOUR = 3600.0
RULES = RetentionRules(last=1, grace=HOUR)


@pytest.fixture
def store(tmp_path: Path) -> MemoryBackend:
    """A store with `chat:v1` and `chat:v2`, long ago."""
    backend = MemoryBackend()
    model_stores.push(backend, model_stores.model(tmp_path / "v1"))
    other = model_stores.model(tmp_path / "v2", {**FILES, "1/model.py": b"changed"})
    model_stores.push(backend, other, "chat:v2")
    backend.clock += 100 * HOUR
    return backend


def test_the_grace_begins_when_a_name_is_removed(store: MemoryBackend) -> None:
    was = naming.remove(store, NAME)
    assert model_stores.collect(store, RULES).snapshots == ()
    store.clock += 2 * HOUR
    [gone] = model_stores.collect(store, RULES).snapshots
    assert gone.digest == was.digest


def test_the_grace_begins_when_a_name_moves(store: MemoryBackend) -> None:
    first, second = model_stores.resolve(store), model_stores.resolve(store, "chat:v2")
    naming.tag(store, second, NamingRequest(NAME, CREATED, "somebody", move=True))
    assert model_stores.collect(store, RULES).snapshots == ()
    store.clock += 2 * HOUR
    assert model_stores.collect(store, RULES).snapshots == (first,)


def test_a_name_that_moves_at_the_same_moment_is_not_removed(store: MemoryBackend) -> None:
    second = model_stores.resolve(store, "chat:v2")
    other = MemoryBackend(store.stored)

    def move() -> None:
        store.between = None
        naming.tag(other, second, NamingRequest(NAME, CREATED, "another", move=True))

    store.between = move
    with pytest.raises(Conflict):
        naming.remove(store, NAME)
    assert model_stores.resolve(store) == second


def test_a_name_of_a_damaged_snapshot_can_be_removed(store: MemoryBackend) -> None:
    key = layout.manifest(model_stores.resolve(store).digest)
    model_stores.damage(store, key, b"{}")
    naming.remove(store, NAME)
    assert store.stored[key][0] == b"{}"
