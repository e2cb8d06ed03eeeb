"""What the store relies on in a place: one suite for a folder, a bucket, and the model of both."""

import hashlib
from collections.abc import Callable, Iterator

import pytest

from sidecar.models.store.documents import layout
from sidecar.models.store.places.backend import Backend
from sidecar.runtime.errors import Corrupt, NotFound, Rejected

Open = Callable[[], Backend]
SMALL = b"content"
LARGE = bytes(range(256)) * 40_000  # more than one request of a bucket


def key_of(content: bytes) -> str:
    return layout.blob(hashlib.sha256(content).hexdigest())


def pieces(content: bytes, size: int = 2**20) -> Iterator[bytes]:
    return (content[start : start + size] for start in range(0, len(content), size))


def keys(store: Backend, prefix: str) -> list[str]:
    return [item.key for item in store.items(prefix)]


@pytest.mark.parametrize("content", [b"", SMALL, LARGE], ids=["empty", "small", "large"])
def test_a_blob_is_what_was_written(store: Backend, content: bytes) -> None:
    key = key_of(content)
    digest = store.write(key, len(content), pieces(content))
    assert layout.blob(digest) == key
    assert b"".join(store.chunks(key)) == content
    assert [(item.key, item.size) for item in store.items(layout.BLOBS)] == [(key, len(content))]


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
def test_what_is_not_its_digest_is_not_stored(store: Backend, content: bytes) -> None:
    key = key_of(content)
    for wrong in (content[:-1] + b"x", content[:-1], content + b"x", b""):
        with pytest.raises(Corrupt):
            store.write(key, len(content), pieces(wrong))
    assert keys(store, layout.BLOBS) == []
    with pytest.raises(NotFound):
        list(store.chunks(key))


def test_a_manifest_that_is_not_its_digest_is_not_stored(store: Backend) -> None:
    key = layout.manifest(hashlib.sha256(SMALL).hexdigest())
    store.put(key, SMALL)
    with pytest.raises(Corrupt):
        store.put(key, SMALL + b"x")
    assert store.read(key, 100) == SMALL


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
def test_a_writer_that_fails_stores_nothing(store: Backend, content: bytes) -> None:
    class Broken(Exception):
        pass

    def breaks() -> Iterator[bytes]:
        yield from pieces(content)
        raise Broken

    with pytest.raises(Broken):
        store.write(key_of(content), len(content), breaks())
    assert keys(store, layout.BLOBS) == []


def test_a_blob_is_written_again_over_another_one(store: Backend) -> None:
    store.put(key_of(SMALL), b"corrupt")
    store.write(key_of(SMALL), len(SMALL), [SMALL])
    assert b"".join(store.chunks(key_of(SMALL))) == SMALL


def test_documents(store: Backend) -> None:
    key = layout.name("chat", "v1")
    with pytest.raises(NotFound):
        store.read(key, 100)
    store.put(key, b"one")
    store.put(key, b"two")
    assert store.read(key, 3) == b"two"
    with pytest.raises(Rejected):
        store.read(key, 2)
    assert keys(store, layout.NAMES) == [key]
    store.remove(key)
    store.remove(key)
    assert keys(store, layout.NAMES) == []


def test_only_one_creates_a_name(open_store: Open) -> None:
    first, second, key = open_store(), open_store(), layout.name("chat", "v1")
    assert first.create(key, b"one")
    assert not second.create(key, b"two")
    assert second.read(key, 100) == b"one"


def test_only_one_moves_a_name(open_store: Open) -> None:
    first, second, key = open_store(), open_store(), layout.name("chat", "v1")
    assert not first.swap(key, b"one", b"two")
    first.create(key, b"one")
    assert first.swap(key, b"one", b"two")
    assert not second.swap(key, b"one", b"three")
    assert first.read(key, 100) == b"two"


def test_a_prefix_is_a_folder_and_not_the_beginning_of_a_word(store: Backend) -> None:
    for model in ("chat", "chat-2", "cha"):
        store.put(layout.name(model, "v1"), b"x")
    assert keys(store, f"{layout.NAMES}/chat") == [layout.name("chat", "v1")]


def test_a_claim_says_what_is_there(store: Backend) -> None:
    store.write(key_of(SMALL), len(SMALL), [SMALL])
    assert store.claim({key_of(SMALL), key_of(b"other")}) == {key_of(SMALL): len(SMALL)}
    store.release()


def test_a_sweep_takes_what_is_old(store: Backend) -> None:
    store.write(key_of(SMALL), len(SMALL), [SMALL])
    before = store.now() + 10
    with store.sweeping():
        assert store.sweep([key_of(SMALL), key_of(b"other")], before) >= {key_of(SMALL)}
    assert keys(store, layout.BLOBS) == []


def test_a_sweep_leaves_what_another_process_has_claimed(open_store: Open) -> None:
    writer, cleaner = open_store(), open_store()
    writer.write(key_of(SMALL), len(SMALL), [SMALL])
    before = cleaner.now()
    _pass_a_moment(writer, before)
    assert writer.claim({key_of(SMALL)})
    with cleaner.sweeping():
        assert cleaner.sweep([key_of(SMALL)], before) == set()
    assert b"".join(writer.chunks(key_of(SMALL))) == SMALL
    writer.release()


def _pass_a_moment(store: Backend, since: float) -> None:
    """Let the store's clock advance: it may have a granularity."""
    if hasattr(store, "clock"):
        store.clock += 1.0
    while store.now() <= since:
        pass
