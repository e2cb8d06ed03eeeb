"""The result of a health query to a real health service, and to none."""

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
    """Longer timeouts: server and client share this process, which may be delayed."""
    monkeypatch.setattr(health_query, "_TIMEOUT", 60.0)


class Health(health_pb2_grpc.HealthServicer):
    """The health service of a sidecar."""

    def __init__(self, healthy: bool) -> None:
        self._healthy = healthy

    async def Check(self, request: Any, context: Any) -> Any:
        status = health_pb2.HealthCheckResponse
        return status(status=status.SERVING if self._healthy else status.NOT_SERVING)


@asynccontextmanager
async def server(*, healthy: bool | None) -> AsyncIterator[Instance]:
    """A server that is serving, not serving, or without a health service."""
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
async def test_the_answer_of_a_server(healthy: bool | None, word: HealthReply) -> None:
    async with server(healthy=healthy) as instance:
        assert await ask(instance) is word


@pytest.mark.usefixtures("patient")
async def test_a_closed_port_is_gone() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        assert await ask(Instance("a", "127.0.0.1", 1, port)) is HealthReply.GONE


async def test_a_server_that_does_not_answer_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_query, "_TIMEOUT", 0.05)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        port = mute.getsockname()[1]
        assert await ask(Instance("a", "127.0.0.1", 1, port)) is HealthReply.SILENCE
