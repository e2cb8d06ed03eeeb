"""Rotation of a token in use, whose old value is revoked, on a real agent with ACLs.

The agent writes to the catalog with the token of the last registration, and of the check's.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import structlog
from grpc_health.v1 import health_pb2_grpc

from sidecar.consul.api import HoldsLock, Lock, Set, Status
from sidecar.consul.client import Consul
from sidecar.events import Event, Registered
from sidecar.registry.publisher import Publisher
from sidecar.registry.registration import InstanceInfo, InstanceMeta
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.errors import SidecarError
from sidecar.runtime.latest import Latest
from sidecar.verdict.evidence import Reason
from sidecar.verdict.verdict import Verdict
from sidecar.verdict.verdict_line import State
from sidecar.xds.self_registration import deregister, keep_registered
from sidecar.xds.server import LivenessService
from tests.support.guarded_consul import Guarded

# Seconds: longer than any step on a busy machine, and far below a session's TTL.
PATIENCE, TTL = 60.0, 600.0
POLICIES = Path(__file__).parents[3] / "consul" / "policies"
_names = itertools.count()


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await holds():
            await asyncio.sleep(0.1)


@asynccontextmanager
async def task_of(work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@dataclass
class Rotated:
    """A client with a token file, and one with all rights; Consul checks `listener`."""

    guarded: Guarded
    service: str
    file: Path
    consul: Consul
    all: Consul
    listener: grpc.aio.Server
    dialled: str
    events: list[Event] = field(default_factory=list)

    @property
    def instance(self) -> InstanceInfo:
        name, address = f"{self.service}-0", "127.0.0.1"
        return InstanceInfo(
            name, self.service, address, 8001, 1, (), (), ("m",), self.dialled, "live"
        )

    async def rotate(self) -> None:
        """Replace the token, and revoke the old one."""
        old = self.file.read_text()
        self.file.write_text(await self.new())
        await self.guarded.revoke(old)

    async def new(self) -> str:
        rules = (POLICIES / "sidecar.hcl").read_text().replace('"triton"', f'"{self.service}"')
        return await self.guarded.token(rules.replace("/triton/", f"/{self.service}/"))

    def publisher(self) -> Publisher:
        return Publisher(
            self.consul,
            Latest(Verdict(State.PASSING, Reason.OK)),
            lambda: (self.instance, InstanceMeta()),
            lambda verdict: verdict.summary,
            SystemClock(),
            self.events.append,
        )

    def registered(self) -> int:
        return sum(isinstance(event, Registered) for event in self.events)

    async def shown(self) -> dict[str, str]:
        """The checks of the instance in the catalog."""
        entries = (await self.all.health_service(self.service)).value
        return {check.id: check.status for entry in entries for check in entry.checks}

    async def shows(self, check: str, status: Status) -> None:
        async def holds() -> bool:
            return (await self.shown()).get(check) == status

        await eventually(holds)

    async def shows_nothing(self) -> None:
        async def holds() -> bool:
            return not await self.shown()

        await eventually(holds)

    async def passes(self) -> None:
        for check in (self.instance.verdict_check, self.instance.sidecar_check):
            await self.shows(check, "passing")


@pytest.fixture
async def rotated(guarded: Guarded, tmp_path: Path) -> AsyncIterator[Rotated]:
    listener = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(LivenessService(), listener)
    dialled = f"127.0.0.1:{listener.add_insecure_port('127.0.0.1:0')}"
    await listener.start()
    async with AsyncExitStack() as stack:
        file = tmp_path / "token"
        clients = guarded.client_of(file), guarded.client(guarded.management)
        for consul in clients:
            await stack.enter_async_context(consul)
        scene = Rotated(guarded, f"rotated{next(_names)}", file, *clients, listener, dialled)
        file.write_text(await scene.new())
        yield scene
        await listener.stop(None)


async def test_an_instance_that_dies_after_a_token_rotation_is_critical_and_loses_the_lock(
    rotated: Rotated,
) -> None:
    publisher, own = rotated.publisher(), rotated.instance
    async with task_of(publisher.push), task_of(publisher.keep):
        await rotated.passes()
        checks = [own.verdict_check, own.sidecar_check]
        session = await rotated.consul.session_create(
            "test", ttl=TTL, lock_delay=0, service_checks=checks
        )
        key = f"triton-sidecar/{rotated.service}/election/lock"
        await rotated.consul.transact(Lock(key, b"first", session))
        before = rotated.registered()
        await rotated.rotate()

        async def again() -> bool:
            return rotated.registered() > before

        await eventually(again)
        # A session belongs to no token: the new one renews it, and writes under its lock.
        await rotated.consul.session_renew(session)
        await rotated.consul.transact(HoldsLock(key, session), Set(key, b"second"))
        await rotated.passes()
    await rotated.listener.stop(None)
    await rotated.shows(own.sidecar_check, "critical")

    async def freed() -> bool:
        found = (await rotated.all.kv(key)).value
        return found is not None and found.session is None

    await eventually(freed)


async def test_a_blocked_query_whose_token_is_deleted_gets_no_empty_list(
    rotated: Rotated,
) -> None:
    publisher, own = rotated.publisher(), rotated.instance
    async with task_of(publisher.push), task_of(publisher.keep):
        await rotated.passes()
        before = await rotated.consul.health_service(rotated.service)
        waiting = asyncio.create_task(
            rotated.consul.health_service(rotated.service, index=before.index, wait=30)
        )
        await asyncio.sleep(0.5)
        await rotated.rotate()
        await rotated.all.maintain_service(own.id, "something changes")
        with suppress(SidecarError):  # the token is unknown
            assert (await waiting).value != ()
        found = await rotated.consul.health_service(rotated.service)
        assert [entry.id for entry in found.value] == [own.id]


async def test_an_instance_that_stops_after_a_token_rotation_leaves_no_ghost(
    rotated: Rotated,
) -> None:
    publisher = rotated.publisher()
    async with task_of(publisher.push), task_of(publisher.keep):
        await rotated.passes()
        await publisher.withdraw()
    await rotated.rotate()
    await publisher.deregister()
    await rotated.shows_nothing()


async def test_maintenance_ends_after_its_token_was_deleted(rotated: Rotated) -> None:
    """The sidecar was killed during its drain, and its successor has a different token."""
    first, check = rotated.publisher(), f"_service_maintenance:{rotated.instance.id}"
    async with task_of(first.push), task_of(first.keep):
        await rotated.passes()
        await first.withdraw()
        await rotated.shows(check, "critical")
    await rotated.rotate()
    successor = rotated.publisher()
    async with task_of(successor.push), task_of(successor.keep):

        async def ended() -> bool:
            return check not in await rotated.shown()

        await eventually(ended)
        await rotated.passes()


async def test_a_control_plane_that_dies_after_a_token_rotation_is_critical(
    rotated: Rotated,
) -> None:
    own = rotated.instance.id
    wished: dict[str, Any] = {
        "ID": own,
        "Name": rotated.service,
        "Address": "127.0.0.1",
        "Port": 18000,
        "Checks": [
            {"CheckID": f"{own}:alive", "Name": "alive", "GRPC": rotated.dialled, "Interval": "1s"}
        ],
    }

    async def keep() -> None:
        await keep_registered(rotated.consul, wished, SystemClock(), structlog.get_logger())

    async with task_of(keep):
        await rotated.shows(f"{own}:alive", "passing")
        await rotated.rotate()

        async def again() -> bool:
            return await rotated.consul.keeps_token(own)

        await eventually(again)
    await rotated.listener.stop(None)
    await rotated.shows(f"{own}:alive", "critical")
    await rotated.rotate()
    await deregister(rotated.consul, wished)
    await rotated.shows_nothing()
