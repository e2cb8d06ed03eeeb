"""What a bucket's client needs, and what its errors say."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from sidecar.local.planning import ports
from sidecar.models.store import places
from sidecar.models.store.documents import layout
from sidecar.models.store.places import location
from sidecar.runtime.errors import ConfigError, PartMissing, Unavailable
from tests.support import model_stores
from tests.support.object_store import ObjectStore
from tests.support.tcp_proxy import Proxy


def test_a_wrong_secret_is_the_operators(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(ConfigError, match=s3):
        location.backend(s3).create(layout.name("chat", "v1"), b"x")


def test_no_credentials_are_the_operators(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(ConfigError, match="AWS_ACCESS_KEY_ID"):
        location.backend(s3)


def test_a_server_that_is_gone_is_unavailable(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match=s3):
        location.backend(s3).read(layout.name("chat", "v1"), 100)


async def test_cut_connections_are_made_again(
    s3: str, object_server: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weights = {f"1/weights-{number}": os.urandom(20 * 2**20) for number in range(2)}
    model = model_stores.model(tmp_path / "model", {**model_stores.FILES, **weights})
    with ports.reserve(1) as (port,):
        proxy = Proxy(object_server.url.removeprefix("http://"), port)
        await proxy.connect()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{proxy.address}")
        store = location.backend(s3)
        pushing = asyncio.create_task(asyncio.to_thread(model_stores.push, store, model))
        for _ in range(4):
            await asyncio.sleep(0.15)
            proxy.cut()
            await asyncio.sleep(0.05)
            await proxy.connect()
        await pushing
        found = await asyncio.to_thread(model_stores.verify, store, "chat:v1")
        assert found.damages == ()
        proxy.cut()


def test_without_the_extra_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.startswith("sidecar.models.store.places.b")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(places, "bucket", raising=False)
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(PartMissing, match=r"triton-sidecar\[s3\]"):
        location.backend("s3://models/x")
