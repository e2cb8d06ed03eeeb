"""How writers and sweeps in a bucket wait for each other, and not for the dead."""

import time
from pathlib import Path

import pytest

from sidecar.models.store.documents import layout
from sidecar.models.store.places import bucket, location
from sidecar.runtime.errors import Conflict
from tests.support import model_stores

_LASTS = 2.0  # seconds


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "_SWEEP_LASTS", _LASTS)
    monkeypatch.setattr(bucket, "_RENEW_SWEEP", 0.2)


def test_a_sweep_at_work_is_announced_for_as_long_as_it_takes(s3: str) -> None:
    first, second = location.backend(s3), location.backend(s3)
    with first.sweeping():
        time.sleep(_LASTS + 1.5)
        with pytest.raises(Conflict), second.sweeping():
            pass
    with second.sweeping():
        pass


def test_writers_and_sweeps_wait_for_no_dead_sweep(s3: str, model: Path) -> None:
    store = location.backend(s3)
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
    dead, store = location.backend(s3), location.backend(s3)
    dead.claim({key})
    with store.sweeping():
        assert store.sweep([key], store.now() + 60) == set()
    monkeypatch.setattr(bucket, "_CLAIM_LASTS", -60.0)
    with store.sweeping():
        assert store.sweep([key], store.now() + 60) == {key}
    assert store.tidy() == 1
