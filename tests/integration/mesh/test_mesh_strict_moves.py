"""Strict mode under load: a role that is moved on purpose costs no request, and one writes."""

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
from tests.support.soak import SOAK, pause, soak

pytestmark = pytest.mark.integration

ENVIRONMENT = {"TRITON_SIDECAR_ELECTION__MODE": "strict"}
# A sidecar that is started anew is asked again as soon as it listens.
_AT_ONCE = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 100))
_STATUS = health_pb2.HealthCheckResponse.ServingStatus
HERE, APART = "triton-0", "triton-1"


async def maintain_service(mesh: LiveMesh, enable: bool) -> None:
    await mesh.maintain(HERE, enable)


async def stop(mesh: LiveMesh, enable: bool) -> None:
    """Its sidecar is stopped in order; another one is started in its place."""
    if enable:
        mesh.signal(mesh.sidecar_of(HERE), signal.SIGTERM)


async def switch_over(mesh: LiveMesh, enable: bool) -> None:
    """What is done to go back as well, so there is nothing to undo."""
    if enable:
        await _ordered(mesh, APART)


async def _ordered(mesh: LiveMesh, to: str) -> None:
    order = ("switchover", f"--to={to}", "--timeout=60s", f"--mesh={mesh.folder}")
    done = await asyncio.to_thread(sidecar, *order)
    assert done.returncode == 0, done.stdout + done.stderr


@asynccontextmanager
async def strictly(mesh: LiveMesh) -> AsyncIterator[None]:
    """Envoy is strict too, the two are on nodes of their own, and the first one is primary."""
    file = mesh.folder / "policy.yaml"
    file.write_text("mode: strict\n")
    async with apart(mesh, APART):
        sidecar("policy", "set", str(file), f"--mesh={mesh.folder}", check=True)
        await until(lambda: _pass(mesh), "both pass")
        if await mesh.primary() != HERE:
            await _ordered(mesh, HERE)
        await until(lambda: _serves(mesh, HERE), f"{HERE} serves")
        yield


@asynccontextmanager
async def one_writer(mesh: LiveMesh) -> AsyncIterator[None]:
    """Never does one say SERVING to Envoy's checks while another does.

    They are asked as Envoy asks, over connections that stay.
    """
    looks: list[set[str]] = []

    async def look(one: health_pb2_grpc.HealthStub, other: health_pb2_grpc.HealthStub) -> None:
        while True:
            looks.append({await _answer(each) for each in (one, other, one)})
            await asyncio.sleep(0.02)

    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(
                grpc.aio.insecure_channel(each.sidecar.grpc, options=_AT_ONCE)
            )
            for each in mesh.now.instances
        ]
        looking = asyncio.create_task(look(*map(health_pb2_grpc.HealthStub, channels)))
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.wait((looking,))
    assert looks
    assert {"SERVING"} not in looks  # the first one before the other and after it


@pytest.mark.parametrize(
    "move",
    [
        switch_over,
        maintain_service,
        *(pytest.param(move, marks=soak) for move in (maintain_node, fail_node, stop)),
    ],
)
async def test_a_move_on_purpose_costs_nothing(
    mesh: LiveMesh, move: Callable[[LiveMesh, bool], Awaitable[None]]
) -> None:
    async with strictly(mesh):
        for clients in (16, 64) if SOAK else (16,):
            reference = mesh.now.instances[0].triton.grpc
            edge = mesh.now.envoy.grpc
            async with (
                load.load(
                    edge, reference, unary=clients, streams=4, pause=pause(clients)
                ) as running,
                one_writer(mesh),
            ):
                await _flows(running)
                await move(mesh, True)
                try:
                    await until(lambda: _serves(mesh, APART), f"{APART} serves")
                    await _flows(running)
                finally:
                    await move(mesh, False)
                await until(lambda: _pass(mesh), "both pass again")
                await _ordered(mesh, HERE)
                await until(lambda: _serves(mesh, HERE), f"{HERE} serves again")
                await _flows(running)
            unharmed(running)


async def _flows(running: load.Load) -> None:
    unary, streams = len(running.unary.done), len(running.streams.done)
    await until(
        lambda: len(running.unary.done) >= unary + 100 and len(running.streams.done) > streams,
        "answers for all clients",
    )


async def _pass(mesh: LiveMesh) -> bool:
    async with consul_view.connect(mesh.now) as consul:
        seen = await consul_view.observe(consul)
    return [each.status for each in seen.values()] == ["passing"] * len(mesh.now.instances)


async def _serves(mesh: LiveMesh, instance: str) -> bool:
    """Whether it is primary, and says so to Envoy's checks."""
    serving = await _says(mesh.instance(instance).sidecar.grpc) == "SERVING"
    return serving and await mesh.primary() == instance


async def _answer(sidecar: health_pb2_grpc.HealthStub) -> str:
    try:
        found = await sidecar.Check(health_pb2.HealthCheckRequest(), timeout=3.0)
    except grpc.aio.AioRpcError:
        return "nothing"
    return str(_STATUS.Name(found.status))


async def _says(address: str) -> str:
    try:
        return await part_probe.health(address)
    except Unavailable:
        return "nothing"
