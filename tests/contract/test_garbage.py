"""Malformed answers of Consul and Triton are translated into our errors by the clients."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from aiohttp import web
from tritonclient.grpc import service_pb2, service_pb2_grpc
from typer.testing import CliRunner

from sidecar.cli.main import app
from sidecar.consul.access import ConsulAccess
from sidecar.consul.api import Lock, Set
from sidecar.consul.client import Consul
from sidecar.runtime.errors import Conflict, Rejected, SessionLost, SidecarError
from sidecar.triton.api import InferenceRequest
from sidecar.triton.client import Triton
from sidecar.triton.tensors import tensor

CALLS: dict[str, Callable[[Consul], Awaitable[object]]] = {
    "health_service": lambda consul: consul.health_service("triton"),
    "health_node": lambda consul: consul.health_node("node"),
    "kv_prefix": lambda consul: consul.kv_prefix("a/"),
    "agent_service": lambda consul: consul.agent_service("triton-0"),
    "session_create": lambda consul: consul.session_create(
        "s", ttl=15, lock_delay=0, service_checks=[]
    ),
    "transact": lambda consul: consul.transact(Lock("l", b"v", "s"), Set("e", b"v")),
    "session_renew": lambda consul: consul.session_renew("s"),
}
# Valid JSON of the wrong shape, and answers of proxies and load balancers.
BODIES = [
    "<html>down for maintenance</html>",
    "null",
    "[{}]",
    '{"ID": {}}',
    "[[]]",
    "",
    "\xff",
    "1",
]


@asynccontextmanager
async def web_server(body: str, status: int) -> AsyncIterator[str]:
    """A server that gives one answer to every request; gives its address."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body.encode("latin-1"))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def consul_that_answers(body: str, status: int) -> AsyncIterator[tuple[Consul, list[str]]]:
    reported: list[str] = []
    async with (
        web_server(body, status) as address,
        Consul(
            ConsulAccess(address=address), lambda operation, _: reported.append(operation)
        ) as consul,
    ):
        yield consul, reported


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("status", [200, 204, 301, 404, 409, 429, 500, 503])
async def test_malformed_answers_of_consul(call: str, status: int) -> None:
    for body in BODIES:
        async with consul_that_answers(body, status) as (consul, reported):
            try:
                await CALLS[call](consul)
            except SidecarError:
                assert reported or "gone" in call or status in (404, 409)
            # Any other exception would end a loop, and fails this test.


@pytest.mark.parametrize(
    ("what", "error", "reported_as"),
    [
        ("failed to lock key 'l', lock is already held", Conflict, []),
        ("failed to lock key 'l', due to lock delay", Conflict, []),
        ('failed to lock session "l": invalid session "s"', SessionLost, ["txn"]),
        ("Permission denied", Rejected, ["txn"]),
    ],
)
async def test_the_reason_of_a_rolled_back_transaction_is_recognized(
    what: str, error: type[Rejected], reported_as: list[str]
) -> None:
    body = json.dumps({"Results": None, "Errors": [{"OpIndex": 0, "What": what}]})
    async with consul_that_answers(body, 409) as (consul, reported):
        with pytest.raises(error, match=r"session|lock|Permission") as raised:
            await CALLS["transact"](consul)
    assert type(raised.value) is error
    assert reported == reported_as


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Gives one answer to every request."""

    def __init__(self, response: Any) -> None:
        self.response = response

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        return self.response

    async def ModelStreamInfer(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        yield service_pb2.ModelStreamInferResponse(infer_response=self.response)


def response(
    datatype: str = "FP32", shape: tuple[int, ...] = (1,), raw: tuple[bytes, ...] = (b"\0\0\0\0",)
) -> Any:
    message = service_pb2.ModelInferResponse(raw_output_contents=raw)
    message.outputs.add(name="out", datatype=datatype, shape=shape)
    return message


def typed() -> Any:
    message = service_pb2.ModelInferResponse()
    output = message.outputs.add(name="out", datatype="FP32", shape=[1])
    output.contents.fp32_contents.append(1.0)
    return message


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize(
    "garbage",
    [
        typed(),
        response(raw=()),
        response(raw=(b"\0\0\0",)),
        response(shape=(7,)),
        response(shape=(-1, -1)),
        response("BYTES", raw=(b"\xff\xff\xff\xff",)),
        response("BYTES", raw=(b"\x05\0\0\0ab",)),
        response("FP7"),
        response(""),
    ],
    ids=["typed", "none", "short", "shape", "negative", "length", "cut", "unknown", "empty"],
)
async def test_malformed_answers_of_triton(garbage: Any, decoupled: bool) -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(garbage), server)
    await server.start()
    try:
        async with Triton(f"127.0.0.1:{port}") as triton:
            inputs = {"in": tensor("BYTES", [1], ["x"])}
            with pytest.raises(Rejected):
                await triton.infer(InferenceRequest("m", (inputs,), decoupled=decoupled), 5.0)
    finally:
        await server.stop(None)


NO_CONSUL = [
    (404, ""),
    (404, "404 page not found"),
    (404, '{"error":"not found"}'),
    (400, "Client sent an HTTP request to an HTTPS server."),
    (403, '{"errors":["permission denied"]}'),  # Vault
    (405, "method not allowed"),
    (200, "<html>welcome</html>"),
    (200, "[]"),
    (200, "{}"),
    (502, "bad gateway"),
]
VERBS = [
    ("list",), ("history",), ("pause",), ("resume",), ("flush", "switchover"), ("switchover",),
    ("failover",), ("failover", "--dry-run"), ("policy", "get"), ("policy", "reset"),
    ("policy", "promote"), ("policy", "rollback"), ("xds", "clients"), ("xds", "snapshot"),
    ("xds", "explain", "triton-0"), ("xds", "diff"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body"), NO_CONSUL)
async def test_commands_report_that_the_server_is_not_consul(
    status: int, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CONSUL_HTTP_TOKEN", raising=False)
    async with web_server(body, status) as address:
        monkeypatch.setenv("CONSUL_HTTP_ADDR", address)
        for verb in VERBS:
            found = await asyncio.to_thread(CliRunner().invoke, app, [*verb, "--json"])
            assert found.exit_code == 3, (verb, found.output)
            assert json.loads(found.stdout)["done"] is False


@pytest.mark.parametrize(
    ("status", "body", "may_be"),
    [
        (200, '"10.0.0.1:8300"', True),
        (200, '""', True),
        (500, "No known Consul servers", True),
        (403, "Endpoint is blocked by agent configuration", True),
        (403, '{"errors":["permission denied"]}', False),
        (200, '{"leader": true}', False),
        (200, "<html>", False),
        (404, "", False),
    ],
)
async def test_is_consul_recognizes_answers_of_consul(status: int, body: str, may_be: bool) -> None:
    async with consul_that_answers(body, status) as (consul, _):
        assert await consul.is_consul() is may_be
