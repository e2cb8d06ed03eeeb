"""Strict mode under load: a planned move of the role fails no request, and at most one serves."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar.local import consul_view, load
from sidecar.local.processes import part_probe
from sidecar.runtime.errors import Unavailable
from tests.support.mesh.mesh import LiveMesh, unharmed
from tests.support.mesh.mesh_nodes import apart, fail_node, maintain_node
from tests.support.mesh.mesh_outside import sidecar, until
from tests.support.soak import SOAK, pause, soak, times

pytestmark = pytest.mark.integration

ENVIRONMENT = {"TRITON_SIDECAR_ELECTION__MODE": "strict"}
# Reconnect to a restarted sidecar as soon as it listens.
_RECONNECT_QUICKLY = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 100),
)
_STATUS = health_pb2.HealthCheckResponse.ServingStatus
FIRST, SECOND = "triton-0", "triton-1"


async def maintain_service(mesh: LiveMesh, enable: bool) -> None:
    await mesh.maintain(FIRST, enable)


async def stop(mesh: LiveMesh, enable: bool) -> None:
    """Stop the first one's sidecar gracefully; the supervisor starts a new one."""
    if enable:
        mesh.signal(mesh.sidecar_of(FIRST), signal.SIGTERM)


async def switch_over(mesh: LiveMesh, enable: bool) -> None:
    """Order a switchover; undoing it is a no-op, since each test switches back anyway."""
    if enable:
        await _order_switchover(mesh, SECOND)


async def _order_switchover(mesh: LiveMesh, to: str) -> None:
    order = ("switchover", f"--to={to}", "--timeout=60s", f"--mesh={mesh.folder}")
    done = await asyncio.to_thread(sidecar, *order)
    assert done.returncode == 0, done.stdout + done.stderr


@asynccontextmanager
async def strict_mode(mesh: LiveMesh) -> AsyncIterator[None]:
    """Envoy is strict too, each instance has its own node, and the first one is primary."""
    file = mesh.folder / "policy.yaml"
    file.write_text("mode: strict\n")
    async with apart(mesh, SECOND):
        sidecar("policy", "set", str(file), f"--mesh={mesh.folder}", check=True)
        await until(lambda: _pass(mesh), "both pass")
        if await mesh.primary() != FIRST:
            await _order_switchover(mesh, FIRST)
        await until(lambda: _serves(mesh, FIRST), f"{FIRST} serves")
        yield


@asynccontextmanager
async def at_most_one_serves(mesh: LiveMesh) -> AsyncIterator[None]:
    """Assert that never more than one instance answers SERVING to health checks.

    Like Envoy's, the checks use persistent connections.
    """
    rounds: list[set[str]] = []

    async def check(one: health_pb2_grpc.HealthStub, other: health_pb2_grpc.HealthStub) -> None:
        while True:
            rounds.append({await _answer(each) for each in (one, other, one)})
            await asyncio.sleep(0.02)

    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(
                grpc.aio.insecure_channel(each.sidecar.grpc, options=_RECONNECT_QUICKLY)
            )
            for each in mesh.now.instances
        ]
        checking = asyncio.create_task(check(*map(health_pb2_grpc.HealthStub, channels)))
        try:
            yield
        finally:
            checking.cancel()
            await asyncio.wait((checking,))
    assert rounds
    assert {"SERVING"} not in rounds  # the first one both before and after the other


@pytest.mark.parametrize(
    "move",
    [
        switch_over,
        *(
            pytest.param(move, marks=soak)
            for move in (maintain_service, maintain_node, fail_node, stop)
        ),
    ],
)
async def test_a_planned_move_of_the_role_fails_no_request(
    mesh: LiveMesh, move: Callable[[LiveMesh, bool], Awaitable[None]]
) -> None:
    async with strict_mode(mesh):
        for clients in (16, 64) if SOAK else (16,):
            reference = mesh.now.instances[0].triton.grpc
            edge = mesh.now.envoy.grpc
            async with (
                load.load(
                    edge, reference, unary=clients, streams=4, pause=pause(clients)
                ) as running,
                at_most_one_serves(mesh),
            ):
                await _answers_flow(running)
                await move(mesh, True)
                try:
                    await until(lambda: _serves(mesh, SECOND), f"{SECOND} serves")
                    await _answers_flow(running)
                finally:
                    await move(mesh, False)
                await until(lambda: _pass(mesh), "both pass again")
                await _order_switchover(mesh, FIRST)
                await until(lambda: _serves(mesh, FIRST), f"{FIRST} serves again")
                await _answers_flow(running)
            unharmed(running)


async def _answers_flow(running: load.Load) -> None:
    unary = len(running.unary.done) + times(40, soaking=100)
    streams = len(running.streams.done)
    await until(
        lambda: len(running.unary.done) >= unary and len(running.streams.done) > streams,
        "answers for all clients",
    )


async def _pass(mesh: LiveMesh) -> bool:
    async with consul_view.connect(mesh.now) as consul:
        seen = await consul_view.observe(consul)
    return [each.status for each in seen.values()] == ["passing"] * len(mesh.now.instances)


async def _serves(mesh: LiveMesh, instance: str) -> bool:
    """Whether the instance is primary and answers SERVING to health checks."""
    serving = await _status_of(mesh.instance(instance).sidecar.grpc) == "SERVING"
    return serving and await mesh.primary() == instance


async def _answer(sidecar: health_pb2_grpc.HealthStub) -> str:
    try:
        found = await sidecar.Check(health_pb2.HealthCheckRequest(), timeout=3.0)
    except grpc.aio.AioRpcError:
        return "nothing"
    return str(_STATUS.Name(found.status))


async def _status_of(address: str) -> str:
    try:
        return await part_probe.health(address)
    except Unavailable:
        return "nothing"
