"""An unmounted or wrong place is no store: it is neither read as one nor made one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.models.store import transfer
from sidecar.models.store.documents import layout, marker
from sidecar.models.store.places import location
from sidecar.models.store.places.backend import Backend
from sidecar.runtime.errors import ConfigError
from tests.support import model_stores
from tests.support.model_stores import FILES, collect, push, resolve, verify

VERBS: dict[str, Callable[[Backend], object]] = {
    "verify": verify,
    "show": resolve,
    "list": lambda store: list(store.items(layout.NAMES)),
    "gc": collect,
    "gc --dry-run": lambda store: collect(store, dry_run=True),
    "copy": lambda store: transfer.chosen(store, []),
    "rm": lambda store: store.remove(layout.name("chat", "v1")),
    "put": lambda store: store.put(layout.name("chat", "v1"), b"x"),
    "write": lambda store: store.write(layout.blob("a" * 64), 1, [b"x"]),
}


@pytest.fixture
def place(tmp_path: Path) -> str:
    """An empty folder."""
    (folder := tmp_path / "mount").mkdir()
    return str(folder)


@pytest.mark.parametrize("verb", VERBS)
def test_an_empty_place_is_no_store_and_stays_empty(place: str, verb: str) -> None:
    with pytest.raises(ConfigError, match="is it mounted"):
        VERBS[verb](location.backend(place))
    assert list(Path(place).iterdir()) == []


def test_the_first_push_makes_a_store(place: str, model: Path) -> None:
    push(location.backend(place), model)
    found = location.backend(place).read(marker.KEY, marker.LARGEST)
    assert found == marker.dump()
    push(location.backend(place), model, "chat:v2")


def test_a_store_of_a_later_version_is_left_alone(place: str, model: Path) -> None:
    model_stores.opened(place).put(marker.KEY, b'{"format": 2}')
    for verb in (verify, collect, lambda store: push(store, model)):
        with pytest.raises(ConfigError, match="later version"):
            verb(location.backend(place))


def test_a_place_with_something_else_is_made_no_store(place: str, model: Path) -> None:
    model_stores.opened(place).put("names/other", b"x")
    location.backend(place).remove(marker.KEY)
    with pytest.raises(ConfigError, match="names"):
        push(location.backend(place), model)


def test_a_store_that_was_stopped_before_its_marker_is_made(tmp_path: Path, model: Path) -> None:
    (tmp_path / "store" / layout.PARTIAL).mkdir(parents=True)
    store = location.backend(str(tmp_path / "store"))
    push(store, model)
    assert {file.path for file in resolve(store).snapshot.files} == set(FILES)
