"""What a health query makes of a real health service's answer, and of none."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar.xds.catalog import health_query
from sidecar.xds.catalog.catalog import Instance
from sidecar.xds.catalog.health_query import HealthReply, ask


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Server and client are this process, which may get no turn for longer than anybody waits."""
    monkeypatch.setattr(health_query, "_TIMEOUT", 60.0)


class Health(health_pb2_grpc.HealthServicer):
    """As a sidecar's."""

    def __init__(self, healthy: bool) -> None:
        self._healthy = healthy

    async def Check(self, request: Any, context: Any) -> Any:
        status = health_pb2.HealthCheckResponse
        return status(status=status.SERVING if self._healthy else status.NOT_SERVING)


@asynccontextmanager
async def server(*, healthy: bool | None) -> AsyncIterator[Instance]:
    """One that serves, does not, or knows no health service."""
    found = grpc.aio.server()
    if healthy is not None:
        health_pb2_grpc.add_HealthServicer_to_server(Health(healthy), found)
    port = found.add_insecure_port("127.0.0.1:0")
    await found.start()
    yield Instance("a", "127.0.0.1", 1, port)
    await found.stop(None)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("healthy", "word"),
    [(True, HealthReply.SERVES), (False, HealthReply.GONE), (None, HealthReply.GONE)],
)
async def test_what_a_server_says(healthy: bool | None, word: HealthReply) -> None:
    async with server(healthy=healthy) as instance:
        assert await ask(instance) is word


@pytest.mark.usefixtures("patient")
async def test_where_nobody_listens_it_is_gone() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        assert await ask(Instance("a", "127.0.0.1", 1, port)) is HealthReply.GONE


async def test_who_listens_and_says_nothing_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_query, "_TIMEOUT", 0.05)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        port = mute.getsockname()[1]
        assert await ask(Instance("a", "127.0.0.1", 1, port)) is HealthReply.SILENCE
