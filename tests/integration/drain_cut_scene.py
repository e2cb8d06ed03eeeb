"""What outlives a drain is cut: requests are answered elsewhere, streams end.

Run by `test_drain_cut.py` in a network of its own, where whoever runs the tests may cut.
"""

import asyncio
import socket
import sys
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


_CLIENT = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
    try:
        print(connection.recv(1))
    except ConnectionResetError:
        print("reset")
"""


async def test_only_what_others_have_to_a_port_is_cut() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mine, socket.create_server(("", 0)) as other:
        ports = [server.getsockname()[1] for server in (mine, other)]
        children = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _CLIENT, str(port)), stdout=asyncio.subprocess.PIPE
            )
            for port in ports
        ]
        with mine.accept()[0], other.accept()[0] as far:
            probe = socket.create_connection(mine.getsockname())
            with probe, mine.accept()[0] as near:
                assert await cut(ports[0]) == 1
                assert (await children[0].communicate())[0] == b"reset\n"
                far.sendall(b"x")
                assert (await children[1].communicate())[0] == b"b'x'\n"
                near.sendall(b"y")
                assert probe.recv(1) == b"y"
                assert await cut(ports[0]) == 0
