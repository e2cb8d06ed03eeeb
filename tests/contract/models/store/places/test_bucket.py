"""How writers and sweeps in a bucket wait for each other, and not for the dead."""

import time
from pathlib import Path

import pytest

from sidecar.models.store.documents import layout
from sidecar.models.store.places import bucket
from sidecar.models.store.places.bucket import BucketBackend
from sidecar.runtime.errors import Conflict, Unavailable
from tests.support import model_stores

_LASTS = 2.0  # seconds


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "_SWEEP_LASTS", _LASTS)
    monkeypatch.setattr(bucket, "_RENEW_SWEEP", 0.2)


def test_a_sweep_at_work_is_announced_for_as_long_as_it_takes(s3: str) -> None:
    first, second = model_stores.opened(s3), model_stores.opened(s3)
    with first.sweeping():
        time.sleep(_LASTS + 1.5)
        with pytest.raises(Conflict), second.sweeping():
            pass
    with second.sweeping():
        pass


def test_writers_and_sweeps_wait_for_no_dead_sweep(s3: str, model: Path) -> None:
    store = model_stores.opened(s3)
    store.put(bucket._SWEEP, b"")
    model_stores.push(store, model)
    assert model_stores.verify(store).damages == ()
    store.put(bucket._SWEEP, b"")
    time.sleep(_LASTS + 1.5)
    with store.sweeping():
        pass
    assert bucket._SWEEP not in [item.key for item in store.items(layout.PARTIAL)]


def test_the_claim_of_a_dead_writer_ends(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key = layout.blob("a" * 64)
    dead, store = model_stores.opened(s3), model_stores.opened(s3)
    dead.claim({key})
    with store.sweeping():
        assert store.sweep([key], store.now() + 60) == set()
    monkeypatch.setattr(bucket, "_CLAIM_LASTS", -60.0)
    with store.sweeping():
        assert store.sweep([key], store.now() + 60) == {key}
    assert store.tidy() == 1


def test_a_sweep_that_was_taken_over_stops_and_leaves_the_other_announced(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was suspended for longer than its announcement lasts."""
    monkeypatch.setattr(bucket, "_RENEW_SWEEP", 60.0)
    key = layout.name("chat", "v1")
    first, second, third = (model_stores.opened(s3) for _ in range(3))
    first.put(key, b"x")
    with first.sweeping():
        time.sleep(_LASTS + 1.5)
        with second.sweeping():
            with pytest.raises(Unavailable):
                first.sweep([key], first.now() + 60)
            assert isinstance(first, BucketBackend)
            first._renew_sweep(1)
            with pytest.raises(Unavailable):
                first.sweep([key], first.now() + 60)
            first._end_announcement()
            with pytest.raises(Conflict), third.sweeping():
                pass
            assert second.sweep([key], second.now() + 60) == {key}
    with third.sweeping():
        pass


def test_one_of_two_takes_over_a_dead_sweep(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = model_stores.opened(s3), model_stores.opened(s3)
    first.put(bucket._SWEEP, b"dead 3")
    time.sleep(_LASTS + 1.5)
    assert isinstance(first, BucketBackend)
    sweeping = first._sweeping

    def overtaken() -> float | None:
        age = sweeping()
        second.put(bucket._SWEEP, b"dead 4")  # it lives, and renews
        return age

    monkeypatch.setattr(first, "_sweeping", overtaken)
    with pytest.raises(Conflict), first.sweeping():
        pass
    assert second.read(bucket._SWEEP, 100) == b"dead 4"
