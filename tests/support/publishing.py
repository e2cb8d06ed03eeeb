"""A running publisher on a model of Consul that can be slow, fail and lose entries."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from sidecar.consul.api import Check, QueryResult, ServiceEntry, Status
from sidecar.events import Event, Registered
from sidecar.registry import registration as record
from sidecar.registry.publisher import Publisher
from sidecar.registry.registration import InstanceInfo, InstanceMeta
from sidecar.runtime.errors import Unavailable
from sidecar.runtime.latest import Latest
from sidecar.verdict.evidence import Reason
from sidecar.verdict.verdict import UNPROVEN, Verdict
from sidecar.verdict.verdict_line import State
from tests.support.consul_model import FakeConsul
from tests.support.rewording import any_words as any_words
from tests.support.virtual_clock import VirtualClock, settle

INSTANCE = InstanceInfo("t-0", "t", "127.0.0.1", 8001, 1, (), (), ("m",), "127.0.0.1:9001", "live")
PASSING = Verdict(State.PASSING, Reason.OK)
CRITICAL = Verdict(State.CRITICAL, Reason.CANARY_UNANSWERED, "m: no answer within 2 s")


class FaultyConsul(FakeConsul):
    """Fails or hangs the configured calls, and records every push."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: set[str] = set()
        self.hanging: set[str] = set()
        self.pushed: list[tuple[Status, str]] = []
        self.stale: str | None = None  # the status of the verdict that the catalog keeps showing

    async def _trouble(self, call: str) -> None:
        if call in self.hanging:
            await asyncio.Event().wait()
        if call in self.failing:
            raise Unavailable(call)

    async def update_check(self, check_id: str, status: Status, output: str) -> None:
        await self._trouble("update_check")
        await super().update_check(check_id, status, output)
        self.pushed.append((status, output))

    async def register_service(self, registration: Any) -> None:
        await self._trouble("register_service")
        await super().register_service(registration)
        self.stale = None

    async def maintain_service(self, service_id: str, reason: str | None) -> None:
        await self._trouble("maintain_service")
        await super().maintain_service(service_id, reason)

    async def health_node(
        self, node: str, *, index: int = 0, wait: float = 0
    ) -> QueryResult[tuple[Check, ...]]:
        answer = await super().health_node(node, index=index, wait=wait)
        await self._trouble("health_node")
        return answer

    async def health_service(
        self,
        name: str,
        *,
        index: int = 0,
        wait: float = 0,
        consistent: bool = False,
        dc: str = "",
        streamed: bool = True,
    ) -> QueryResult[tuple[ServiceEntry, ...]]:
        await self._trouble("health_service")
        answer = await super().health_service(name, index=index, wait=wait)
        if self.stale is None:
            return answer
        (entry,) = answer.value
        checks = tuple(
            replace(check, status=self.stale) if check.id == INSTANCE.verdict_check else check
            for check in entry.checks
        )
        return replace(answer, value=(replace(entry, checks=checks),))


@dataclass
class Scene:
    consul: FaultyConsul
    clock: VirtualClock
    verdict: Latest[Verdict] = field(default_factory=lambda: Latest(UNPROVEN))
    meta: InstanceMeta = field(default_factory=InstanceMeta)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.publisher = Publisher(
            self.consul,
            self.verdict,
            lambda: (INSTANCE, self.meta),
            lambda verdict: verdict.summary,
            self.clock,
            self.events.append,
        )

    def entry(self) -> ServiceEntry | None:
        return self.consul.model.services.get("t-0")

    def maintenance(self) -> str:
        """Whether the instance's maintenance mode is its own or another's, if it is in one."""
        entry = self.entry()
        if record.withdrawn(entry):
            return "its own"
        return "" if record.maintenance(entry) is None else "another's"

    def said(self) -> tuple[str | None, bool]:
        """The publisher's `maintained` reason, and whether it keeps the entry."""
        return self.publisher.maintained.value, self.publisher.keeps_entry

    def registrations(self) -> list[str]:
        return [event.why for event in self.events if isinstance(event, Registered)]

    async def shown(self, verdict: Verdict) -> None:
        """Set the sidecar's verdict."""
        self.verdict.set(replace(verdict, at=self.clock.now()))
        await settle()


@asynccontextmanager
async def publishing(consul: FaultyConsul | None = None) -> AsyncIterator[Scene]:
    scene = Scene(consul or FaultyConsul(), VirtualClock())
    loops = [
        asyncio.create_task(scene.publisher.push()),
        asyncio.create_task(scene.publisher.keep()),
        asyncio.create_task(scene.publisher.watch()),
    ]
    await settle()
    yield scene
    assert [loop for loop in loops if loop.done()] == []
    for loop in loops:
        loop.cancel()


async def rotate(scene: Scene) -> None:
    """Replace the token, and revoke the old one."""
    scene.consul.revoked.add(scene.consul.token)
    scene.consul.token = "new"


async def in_catalog(scene: Scene) -> dict[str, str]:
    """The statuses of the instance's checks as the catalog shows them."""
    entries = (await scene.consul.health_service(INSTANCE.service)).value
    return {check.id: check.status for entry in entries for check in entry.checks}


DISK = Check("disk", "disk", "critical", "is full", "")
