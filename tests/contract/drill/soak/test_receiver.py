"""The receiver of notifications as a process, outside of a cluster."""

import asyncio
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import aiohttp
import pytest

from sidecar.drill.cluster.stage import ClusterStage
from sidecar.drill.soak import receiver
from sidecar.drill.soak.notifications import DOCUMENTS, Received
from sidecar.runtime.errors import Unavailable

pytestmark = pytest.mark.contract


def stage(folder: Path, *instead: str) -> ClusterStage:
    """A stage without namespaces: the receiver runs here, or `instead` does."""
    edge = ("edge", SimpleNamespace(env=dict(os.environ)))
    return cast(
        "ClusterStage",
        SimpleNamespace(
            namespaces=SimpleNamespace(enter=lambda name: instead),
            layout=SimpleNamespace(parts=(edge,)),
            log=lambda part: folder / f"{part}.log",
        ),
    )


@pytest.fixture(autouse=True)
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        found: int = free.getsockname()[1]
    monkeypatch.setattr(receiver, "_PORT", found)
    return found


async def test_what_is_posted_as_soon_as_it_has_started_is_kept(tmp_path: Path, port: int) -> None:
    async with receiver.receiver(stage(tmp_path), tmp_path / "kept") as receiving:
        assert receiving.received() == ()
        async with aiohttp.ClientSession() as client:
            await client.post(f"http://127.0.0.1:{port}{DOCUMENTS}", data="{}")
        assert receiving.received() == (Received(DOCUMENTS, "{}"),)
        assert receiving.violations() == ()


@pytest.mark.parametrize("instead", ["exit 1", "exec sleep 60"])
async def test_a_receiver_that_does_not_start_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instead: str
) -> None:
    monkeypatch.setattr(receiver, "_START", 0.5)
    with pytest.raises(Unavailable):
        async with receiver.receiver(stage(tmp_path, "sh", "-c", instead), tmp_path / "kept"):
            pass


async def test_a_receiver_that_ends_early_misses_notifications(tmp_path: Path) -> None:
    async with receiver.receiver(stage(tmp_path), tmp_path / "kept") as receiving:
        receiving.process.kill()
        await asyncio.wait_for(receiving.process.wait(), 60)
        [violation] = receiving.violations()
    assert (violation.code, violation.found) == ("lost_notifications", "it ended with status -9")
