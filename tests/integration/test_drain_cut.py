"""What outlives a drain is cut: requests are answered elsewhere, streams end."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from sidecar.errors import DeadlineExceeded, Rejected
from sidecar.registry import cut as module
from sidecar.registry.cut import cut
from tests.integration.xds_rig import PATIENCE, Rig, eventually

pytestmark = pytest.mark.integration


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with Rig.running("DELTA_GRPC") as running:
        yield running


async def test_stuck_requests_are_answered_elsewhere_and_streams_end(rig: Rig) -> None:
    stream = rig.client.stream(timeout=PATIENCE)
    await stream.write(b"2")
    assert await stream.read() == b"a:0"  # the second answer never comes
    rig.a.hang = True
    requests = [asyncio.create_task(rig.client.who()) for _ in range(8)]
    active = "cluster.triton.upstream_rq_active"

    async def stuck() -> bool:
        return await rig.envoy.stat(active) == 9

    await eventually(stuck, "all are in flight")
    rig.control_plane.publish(rig.a.instance(draining=True), rig.b.instance(), leader="a")
    await eventually(lambda: not rig.control_plane.busy, "Envoy knows")
    assert await cut(rig.a.port) >= 1
    assert await asyncio.gather(*requests) == ["b"] * 8
    assert await stream.code() != grpc.StatusCode.OK


async def test_only_what_a_port_accepted_is_cut() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mine, socket.create_server(("", 0)) as other:
        kept = socket.create_connection(other.getsockname())
        lost = socket.create_connection(mine.getsockname())
        with kept, lost, mine.accept()[0], other.accept()[0] as far:
            assert await cut(mine.getsockname()[1]) == 1
            with pytest.raises(ConnectionResetError):
                lost.recv(1)
            far.sendall(b"x")
            assert kept.recv(1) == b"x"
            assert await cut(mine.getsockname()[1]) == 0


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("echo 'SOCK_DESTROY answers: Operation not permitted' >&2", Rejected),
        ("exit 1", Rejected),
        ("exec sleep 60", DeadlineExceeded),
        (None, Rejected),
    ],
)
async def test_what_goes_wrong_is_told(
    script: str | None,
    error: type[Exception],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if script is not None:
        (tmp_path / "ss").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "ss").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin" if script else str(tmp_path))
    if error is DeadlineExceeded:
        monkeypatch.setattr(module, "_TIMEOUT", 0.2)
    with pytest.raises(error, match="ss: "):
        await cut(1)
