"""Draining an Envoy before its stop, as clients see it."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

from sidecar.cli.main import app
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.errors import Unavailable
from sidecar.xds.envoys.envoy_shutdown import finish
from tests.support.soak import pause
from tests.support.xds.envoy_process import Envoy
from tests.support.xds.grpc_clients import Client, Load
from tests.support.xds.waiting import PATIENCE, eventually
from tests.support.xds.xds_rig import Rig

pytestmark = pytest.mark.integration

CLIENTS = 16


@asynccontextmanager
async def two_envoys(folder: Path) -> AsyncIterator[tuple[Rig, list[Client]]]:
    """Clients with both addresses, which prefer the rig's Envoy; each has its own connection."""
    async with Rig.running("DELTA_GRPC") as rig:
        other = await Envoy.start(folder, rig.xds_port, rig.api_type)
        rig.stack.push_async_callback(other.stop)
        await other.listening()
        clients = [Client(rig.envoy.port, also=other.port) for _ in range(CLIENTS)]
        for client in clients:
            rig.stack.push_async_callback(client.close)
        yield rig, clients


async def test_a_draining_envoy_fails_no_request_of_clients_with_another_address(
    tmp_path: Path,
) -> None:
    async with two_envoys(tmp_path) as (rig, clients):
        loads = [Load(client, 2, pause(CLIENTS, every=0.01)) for client in clients]
        await asyncio.gather(*(load.more(20) for load in loads))
        call = clients[0].stream(timeout=PATIENCE)
        await call.write(b"2")
        assert await call.read() == b"a:0"

        said: list[str] = []
        drain = asyncio.create_task(
            finish(rig.envoy.admin, 2.0, PATIENCE, SystemClock(), said.append)
        )
        left = "listeners are closed; requests in flight: 1"
        await eventually(lambda: left in said, "only the stream is left")
        assert not drain.done()
        rig.a.gate.set()
        assert await call.read() == b"a:1"
        await call.done_writing()
        assert await call.code() == grpc.StatusCode.OK
        assert await drain == 0
        await rig.envoy.stop()
        await asyncio.gather(*(load.more(20) for load in loads))
        for load in loads:
            await load.stop()
        assert [failure for load in loads for failure in load.failures] == []


async def test_a_drain_that_times_out_reports_the_requests_in_flight(tmp_path: Path) -> None:
    async with Rig.running("DELTA_GRPC") as rig:
        call = rig.client.stream(timeout=PATIENCE)
        await call.write(b"2")
        assert await call.read() == b"a:0"
        command = ["xds", "drain", rig.envoy.admin, "--pause", "0s", "--timeout", "1s"]
        done = await asyncio.to_thread(CliRunner().invoke, app, command)
        assert done.exit_code == 1
        assert "1 requests are left after 1s" in done.stderr
        assert re.search("in flight: 1$", done.stdout.strip())
        # The command does not cut the stream.
        rig.a.gate.set()
        assert await call.read() == b"a:1"


async def test_only_an_envoy_can_be_drained() -> None:
    async with Rig.running("DELTA_GRPC") as rig:
        for address in (f"127.0.0.1:{rig.a.port}", "127.0.0.1:1"):
            with pytest.raises(Unavailable, match=re.escape(address)):
                await finish(address, 0, 0, SystemClock(), print)
