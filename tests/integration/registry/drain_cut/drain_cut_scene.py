"""What outlives a drain is cut: requests are answered elsewhere, streams end.

Run by `test_drain_cut.py` in a network of its own, where whoever runs the tests may cut.
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
    """`ss` looks through all processes of a machine that others keep busy."""
    monkeypatch.setattr("sidecar.registry.connection_reset._TIMEOUT", PATIENCE)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with Rig.running("DELTA_GRPC") as running:
        yield running


@asynccontextmanager
async def withdrawing(port: int) -> AsyncIterator[Latest[Verdict]]:
    """What ends withdrawals of an instance that hangs, at work on a verdict that can be set."""
    verdict = Latest(Verdict(State.PASSING, Reason.OK))
    settings = DrainRules(timeout=0.5, cut_hung_after=0.5)
    events: list[Event] = []
    it = Withdrawal(settings, _never, lambda: cut(port), SystemClock(), events.append)
    task = asyncio.create_task(it.watch(verdict))
    try:
        yield verdict
        assert not task.done()
    finally:
        task.cancel()


async def _never() -> None:
    await asyncio.Event().wait()


async def all_stuck(rig: Rig) -> list[asyncio.Task[str]]:
    """Eight requests in flight on the first instance, beside one stream."""
    rig.a.hang = True
    requests = [asyncio.create_task(rig.client.who()) for _ in range(8)]

    async def stuck() -> bool:
        return await rig.envoy.stat("cluster.triton.upstream_rq_active") == 9

    await eventually(stuck, "all are in flight")
    return requests


async def withdraw(rig: Rig) -> None:
    """Have the first instance get nothing new."""
    rig.control_plane.publish(rig.a.instance(draining=True), rig.b.instance(), leader="a")
    await eventually(lambda: not rig.control_plane.busy, "Envoy knows")


async def test_what_hangs_is_cut_soon_and_what_is_only_withdrawn_goes_on(rig: Rig) -> None:
    stream = rig.client.stream(timeout=PATIENCE)
    await stream.write(b"3")
    assert await stream.read() == b"a:0"
    requests = await all_stuck(rig)
    async with withdrawing(rig.a.port) as verdict:
        await asyncio.sleep(0)
        await withdraw(rig)
        for reason in (Reason.MAINTENANCE, Reason.GPU_XID):
            state = State.MAINTENANCE if reason is Reason.MAINTENANCE else State.CRITICAL
            verdict.set(Verdict(state, reason))
            await asyncio.sleep(2.0)  # far longer than the deadlines of whoever is cut
            assert not any(request.done() for request in requests)
        verdict.set(Verdict(State.CRITICAL, Reason.MODEL_HUNG))
        assert await asyncio.gather(*requests) == ["b"] * 8
        assert await stream.code() != grpc.StatusCode.OK


async def test_stuck_requests_are_answered_elsewhere_and_streams_end(rig: Rig) -> None:
    stream = rig.client.stream(timeout=PATIENCE)
    await stream.write(b"2")
    assert await stream.read() == b"a:0"  # the second answer never comes
    requests = await all_stuck(rig)
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
