"""Slow clients and a slow server on a real Envoy: they delay no other client."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.support.soak import soak
from tests.support.xds.control_plane import SERVICE
from tests.support.xds.fake_tritons import INFER
from tests.support.xds.grpc_clients import Client, Load
from tests.support.xds.raw_client import RawClient, message
from tests.support.xds.waiting import PATIENCE, eventually
from tests.support.xds.xds_rig import Rig

pytestmark = pytest.mark.integration

MIB = 1 << 20
LARGE = 30 * MIB
BIG = b"big"


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with Rig.running("DELTA_GRPC") as running:
        yield running


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as found:
        yield found


async def raw_clients(rig: Rig, stack: AsyncExitStack, count: int) -> list[RawClient]:
    found = [await RawClient().connect(rig.envoy.port) for _ in range(count)]
    for each in found:
        stack.push_async_callback(each.close)
    return found


async def stuck(rig: Rig, counter: str) -> None:
    """Wait until a byte counter stalls above 4 MiB, except for health checks and pings."""
    newest: list[int] = []

    async def stalled() -> bool:
        newest.append(await rig.envoy.stat(counter))
        return len(newest) > 20 and 4 * MIB < newest[-1] < newest[-20] + MIB // 16

    await eventually(stalled, f"{counter} stands still")


async def served(rig: Rig, clients: int, client: Client | None = None) -> None:
    """Assert that the primary answers all requests of other clients."""
    load = Load(client or rig.client, clients)
    await load.more(30 * clients)
    await load.stop()
    assert load.failures == []
    assert set(load.answers) == {"a"}


@pytest.mark.parametrize("clients", [16, pytest.param(64, marks=soak)])
async def test_a_client_that_does_not_read_delays_no_other(
    rig: Rig, stack: AsyncExitStack, clients: int
) -> None:
    rig.a.says = {BIG: bytes(LARGE)}
    slow = await raw_clients(rig, stack, 4)
    for each in slow:
        for _ in range(4):
            each.request(INFER, message(BIG))
    await eventually(lambda: all(each.received == 2**16 - 1 for each in slow), "they are full")
    await stuck(rig, f"cluster.{SERVICE}.upstream_cx_rx_bytes_total")
    await served(rig, clients)
    # Their connections and streams were not cut.
    assert not any(each.gone or each.ended for each in slow)


async def test_a_client_that_does_not_end_its_requests_delays_no_other(
    rig: Rig, stack: AsyncExitStack
) -> None:
    for each in await raw_clients(rig, stack, 4):
        for _ in range(8):
            each.request(INFER, message(bytes(LARGE))[:60_000], end=False)
    await eventually(lambda: in_flight(rig, 32), "they have begun")
    await served(rig, 16)


async def in_flight(rig: Rig, count: int) -> bool:
    return await rig.envoy.stat(f"cluster.{SERVICE}.upstream_rq_active") == count


async def test_streams_that_a_server_does_not_read_delay_no_other_request(rig: Rig) -> None:
    """Not even requests on the same connection, like those of one backend's users."""
    rig.a.reads.clear()
    async with rig.client_of("triton") as shared:
        streams = [shared.stream(pieces(), timeout=PATIENCE) for _ in range(4)]
        ended = [asyncio.create_task(read(each)) for each in streams]
        await eventually(lambda: in_flight(rig, 4), "they have begun")
        await stuck(rig, "http.triton.downstream_cx_rx_bytes_total")
        await served(rig, 16)
        await served(rig, 16, shared)
        rig.a.reads.set()
        assert await asyncio.gather(*ended) == [[b"a:0"] * (LARGE // MIB)] * 4


async def pieces() -> AsyncIterator[bytes]:
    """Requests of 1 MiB, with one answer each."""
    for _ in range(LARGE // MIB):
        yield b"1".ljust(MIB)


async def read(call: AsyncIterator[bytes]) -> list[bytes]:
    return [answer async for answer in call]
