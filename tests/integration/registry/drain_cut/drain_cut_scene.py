"""Connections that outlive a drain are cut: requests are retried elsewhere, streams end.

`test_drain_cut.py` runs it in its own network namespace, where any user may reset connections.
"""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from sidecar.events import Event
from sidecar.registry.connection_reset import cut
from sidecar.registry.rules import DrainRules
from sidecar.registry.withdrawal import Withdrawal
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.latest import Latest
from sidecar.verdict.evidence import Reason
from sidecar.verdict.verdict import Verdict
from sidecar.verdict.verdict_line import State
from tests.support.xds.waiting import PATIENCE, eventually
from tests.support.xds.xds_rig import Rig


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ss` scans all processes, which takes long on a busy machine."""
    monkeypatch.setattr("sidecar.registry.connection_reset._TIMEOUT", PATIENCE)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with Rig.running("DELTA_GRPC") as running:
        yield running


@asynccontextmanager
async def withdrawing(port: int) -> AsyncIterator[Latest[Verdict]]:
    """Run a withdrawal with short deadlines; yields the verdict that it watches."""
    verdict = Latest(Verdict(State.PASSING, Reason.OK))
    settings = DrainRules(timeout=0.5, cut_hung_after=0.5)
    events: list[Event] = []
    withdrawal = Withdrawal(settings, _never, lambda: cut(port), SystemClock(), events.append)
    task = asyncio.create_task(withdrawal.watch(verdict))
    try:
        yield verdict
        assert not task.done()
    finally:
        task.cancel()


async def _never() -> None:
    await asyncio.Event().wait()


async def stuck_requests(rig: Rig) -> list[asyncio.Task[str]]:
    """Start eight requests that hang on the first instance, in addition to one open stream."""
    rig.a.hang = True
    requests = [asyncio.create_task(rig.client.answered_by()) for _ in range(8)]

    async def stuck() -> bool:
        return await rig.envoy.stat("cluster.triton.upstream_rq_active") == 9

    await eventually(stuck, "all are in flight")
    return requests


async def withdraw(rig: Rig) -> None:
    """Withdraw the first instance, so that it gets no new requests."""
    rig.control_plane.publish(rig.a.instance(draining=True), rig.b.instance(), leader="a")
    await eventually(lambda: not rig.control_plane.busy, "Envoy knows")


async def test_a_hung_instance_is_cut_and_a_withdrawn_one_is_not(rig: Rig) -> None:
    stream = rig.client.stream(timeout=PATIENCE)
    await stream.write(b"3")
    assert await stream.read() == b"a:0"
    requests = await stuck_requests(rig)
    async with withdrawing(rig.a.port) as verdict:
        await asyncio.sleep(0)
        await withdraw(rig)
        for reason in (Reason.MAINTENANCE, Reason.GPU_XID):
            state = State.MAINTENANCE if reason is Reason.MAINTENANCE else State.CRITICAL
            verdict.set(Verdict(state, reason))
            await asyncio.sleep(2.0)  # far longer than the deadlines for a cut
            assert not any(request.done() for request in requests)
        verdict.set(Verdict(State.CRITICAL, Reason.MODEL_HUNG))
        assert await asyncio.gather(*requests) == ["b"] * 8
        assert await stream.code() != grpc.StatusCode.OK


async def test_stuck_requests_are_retried_elsewhere_and_streams_end(rig: Rig) -> None:
    stream = rig.client.stream(timeout=PATIENCE)
    await stream.write(b"2")
    assert await stream.read() == b"a:0"  # the second answer never comes
    requests = await stuck_requests(rig)
    await withdraw(rig)
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


async def test_only_connections_of_other_processes_to_the_port_are_cut() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as cut_server,
        socket.create_server(("", 0)) as other,
    ):
        ports = [server.getsockname()[1] for server in (cut_server, other)]
        children = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _CLIENT, str(port)), stdout=asyncio.subprocess.PIPE
            )
            for port in ports
        ]
        with cut_server.accept()[0], other.accept()[0] as far:
            probe = socket.create_connection(cut_server.getsockname())
            with probe, cut_server.accept()[0] as near:
                assert await cut(ports[0]) == 1
                assert (await children[0].communicate())[0] == b"reset\n"
                far.sendall(b"x")
                assert (await children[1].communicate())[0] == b"b'x'\n"
                near.sendall(b"y")
                assert probe.recv(1) == b"y"
                assert await cut(ports[0]) == 0
