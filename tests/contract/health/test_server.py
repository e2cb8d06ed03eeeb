"""The sidecar's grpc.health.v1 service, with real clients."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar.health import server as health_server
from sidecar.runtime.latest import Latest
from sidecar.verdict.evidence import Reason
from sidecar.verdict.verdict import UNPROVEN, Verdict
from sidecar.verdict.verdict_line import State

STATUS = health_pb2.HealthCheckResponse
PASSING = Verdict(State.PASSING, Reason.OK, models=frozenset({"chat"}))
CRITICAL = Verdict(State.CRITICAL, Reason.MODEL_HUNG)
LONG = 30.0


@asynccontextmanager
async def serving(
    permitted: Callable[[], bool] = lambda: True,
) -> AsyncIterator[tuple[Latest[Verdict], int]]:
    verdict = Latest(UNPROVEN)
    server = grpc.aio.server()
    health_server.add_to(server, verdict, frozenset({"chat"}), permitted)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield verdict, port
    finally:
        await server.stop(0)


def client(port: int) -> Any:
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}")


def request(service: str = "") -> Any:
    return health_pb2.HealthCheckRequest(service=service)


async def test_the_first_answer_waits_for_evidence() -> None:
    async with serving() as (cell, port), client(port) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        alive = await stub.Check(request(health_server.LIVENESS), timeout=LONG)
        assert alive.status == STATUS.SERVING
        check = asyncio.create_task(_status(stub.Check(request("chat"), timeout=LONG)))
        watch = asyncio.create_task(_status(stub.Watch(request(), timeout=LONG).read()))
        cell.set(replace(UNPROVEN, detail="server: port has not passed often enough yet"))
        await stub.Check(request(health_server.LIVENESS), timeout=LONG)
        assert {check.done(), watch.done()} == {False}
        cell.set(CRITICAL)
        assert (await check, await watch) == (STATUS.NOT_SERVING, STATUS.NOT_SERVING)


async def test_without_a_claim_on_the_role_the_answer_does_not_wait() -> None:
    """In strict mode, where only the primary may serve."""
    async with serving(lambda: False) as (_, port), client(port) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(request(), timeout=LONG)
        assert answer.status == STATUS.NOT_SERVING


async def _status(answer: Any) -> Any:
    return (await answer).status


@pytest.mark.parametrize(
    ("verdict", "own", "chat"),
    [
        (PASSING, STATUS.SERVING, STATUS.SERVING),
        (replace(PASSING, state=State.WARNING), STATUS.SERVING, STATUS.SERVING),
        (CRITICAL, STATUS.NOT_SERVING, STATUS.NOT_SERVING),
        (replace(CRITICAL, models=frozenset({"chat"})), STATUS.NOT_SERVING, STATUS.SERVING),
    ],
)
async def test_the_verdict_is_served_for_the_instance_and_for_each_model(
    verdict: Verdict, own: int, chat: int
) -> None:
    async with serving() as (cell, port), client(port) as channel:
        cell.set(verdict)
        stub = health_pb2_grpc.HealthStub(channel)
        assert (await stub.Check(request(), timeout=LONG)).status == own
        assert (await stub.Check(request("chat"), timeout=LONG)).status == chat
        alive = await stub.Check(request(health_server.LIVENESS), timeout=LONG)
        assert alive.status == STATUS.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(request("other"), timeout=LONG)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_watchers_that_stop_reading_do_not_delay_others() -> None:
    """Their flow-control windows are full, so nothing more can be sent to them."""
    async with serving() as (cell, port):
        cell.set(CRITICAL)
        deaf = [await _stalled_watcher(port) for _ in range(8)]
        try:
            async with client(port) as channel:
                watch = health_pb2_grpc.HealthStub(channel).Watch(request(), timeout=LONG)
                assert (await watch.read()).status == STATUS.NOT_SERVING
                for number in range(2000):
                    wanted = CRITICAL if number % 2 else PASSING
                    cell.set(wanted)
                    answer = await watch.read()
                    assert answer.status == (STATUS.NOT_SERVING if number % 2 else STATUS.SERVING)
                tasks = len(asyncio.all_tasks())
            assert tasks < 100
        finally:
            for watcher in deaf:
                watcher.close()


# HTTP/2 by hand, because no client library stops reading. Source of the frames: RFC 9113.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return (
        len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
    )


def _literal(name: bytes, value: bytes) -> bytes:
    """A header without indexing. Source: RFC 7541, 6.2.2."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


async def _stalled_watcher(port: int) -> socket.socket:
    """A Watch that has received its first answer, and whose window is too small for another."""
    loop = asyncio.get_running_loop()
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setblocking(False)
    window = (4).to_bytes(2, "big") + (7).to_bytes(
        4, "big"
    )  # SETTINGS_INITIAL_WINDOW_SIZE: 7 bytes
    headers = b"".join(
        _literal(name, value)
        for name, value in (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", b"/grpc.health.v1.Health/Watch"),
            (b":authority", b"localhost"),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
        )
    )
    await loop.sock_sendall(
        connection,
        _PREFACE
        + _frame(4, 0, 0, window)
        + _frame(1, 4, 1, headers)  # HEADERS, END_HEADERS
        + _frame(0, 1, 1, b"\0\0\0\0\0"),  # DATA, END_STREAM: an empty request
    )
    received = b""
    while b"\0\0\0\0\x02\x08" not in received:  # one answer's message
        received += await asyncio.wait_for(loop.sock_recv(connection, 4096), LONG)
    return connection
