"""Faults of models, caused to a real Triton."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.drill.injections import models
from sidecar.drill.injections.models import gpu_memory_exhausted, hidden_by_cache
from sidecar.drill.misbehaving_models import CACHED, UNARY
from sidecar.drill.scenario import Violated
from sidecar.drill.stage.http import request
from sidecar.local.programs import parts
from sidecar.runtime.errors import Rejected, Unavailable
from tests.support.triton_server import TritonServer

VICTIM = "triton-0"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    (folder := tmp_path_factory.mktemp("mesh") / VICTIM).mkdir()
    caches = parts.triton().caches
    options = f"--cache-directory={caches}", "--cache-config=local,size=1048576"
    with TritonServer.running(folder, UNARY, CACHED, options=options) as running:
        yield running


class Stage:
    """A mesh with one Triton, which somebody may have restarted."""

    def __init__(self, server: TritonServer) -> None:
        self.folder = server.folder.parent
        self.triton = SimpleNamespace(http=server.http)
        self.now = server.process.pid

    def instance(self, name: str) -> "Stage":
        return self

    def pid(self, part: str) -> int:
        return self.now

    def running(self, part: str) -> int | None:
        return self.now


async def asked(server: TritonServer, model: str, text: str) -> str:
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": [text]}
    url = f"http://{server.http}/v2/models/{model}/infer"
    return await request("POST", url, {"inputs": [tensor]})


async def ready(server: TritonServer, model: str) -> None:
    """Check that Triton says that a model is ready; it gives Rejected if not."""
    await request("GET", f"http://{server.http}/v2/models/{model}/ready")


async def test_a_cache_hides_that_a_model_hangs(server: TritonServer) -> None:
    stage: Any = Stage(server)
    before = await asked(server, CACHED, "Asked before?")
    async with hidden_by_cache(stage, VICTIM):
        assert await asked(server, CACHED, "Asked before?") == before
        await ready(server, CACHED)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await asked(server, CACHED, "Not asked before?")
    assert await asked(server, CACHED, "Asked later?")


async def test_a_model_without_a_cache_hides_nothing(
    server: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage: Any = Stage(server)
    monkeypatch.setattr(models, "CACHED", UNARY)
    monkeypatch.setattr(models, "_CACHED_WITHIN", 0.5)
    with pytest.raises(Unavailable, match="does not answer from Triton's cache"):
        async with hidden_by_cache(stage, VICTIM):
            raise AssertionError
    assert await asked(server, UNARY, "Asked later?")


async def test_gpu_memory_is_exhausted_until_another_tritonserver_runs(
    server: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage: Any = Stage(server)
    async with gpu_memory_exhausted(stage, VICTIM):
        with pytest.raises(Rejected, match="CUDA out of memory"):
            await asked(server, UNARY, "Hello?")
        await ready(server, UNARY)
        stage.now += 1
    assert await asked(server, UNARY, "Hello?")
    monkeypatch.setattr(models, "_RESTARTED_WITHIN", 0.1)
    with pytest.raises(Violated, match="expected a restart"):
        async with gpu_memory_exhausted(stage, VICTIM):
            pass
    assert await asked(server, UNARY, "Hello?")


async def test_a_model_cannot_be_reloaded_without_gpu_memory(server: TritonServer) -> None:
    repository = f"http://{server.http}/v2/repository/models/{UNARY}"
    stage: Any = Stage(server)
    async with gpu_memory_exhausted(stage, VICTIM):
        await request("POST", f"{repository}/unload")
        with pytest.raises(Rejected, match="CUDA out of memory"):
            await request("POST", f"{repository}/load")
        stage.now += 1
    await request("POST", f"{repository}/load")
    assert await asked(server, UNARY, "Hello?")
