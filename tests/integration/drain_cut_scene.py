"""What outlives a drain is cut: requests are answered elsewhere, streams end.

Run by `test_drain_cut.py` in a network of its own, where whoever runs the tests may cut.
"""

import asyncio
import socket
from collections.abc import AsyncIterator

import grpc
import pytest

from sidecar.registry.cut import cut
from tests.integration.xds_rig import PATIENCE, Rig, eventually


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
