"""A running catalog watch on a model of Consul with faults, and on a virtual clock."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TypeVar

import pytest

from sidecar.consul.api import KVEntry, QueryResult, ServiceEntry
from sidecar.consul.blocking_query import Pace
from sidecar.election.keys import lock
from sidecar.runtime.errors import Rejected, SidecarError, Unavailable
from sidecar.traffic.document import policy_key
from sidecar.xds.catalog.cached_state import CachedState
from sidecar.xds.catalog.catalog import Catalog, Instance, ServiceCatalog
from sidecar.xds.catalog.catalog_entries import SkippedEntry
from sidecar.xds.catalog.catalog_watch import CatalogWatch
from sidecar.xds.catalog.health_query import HealthReply
from sidecar.xds.catalog.instance_watch import RetainedInstance, WatchContext, WatchTiming
from tests.support.consul_model import ConsulModel, FakeConsul, Generation
from tests.support.virtual_clock import VirtualClock

T = TypeVar("T")
TIMING = WatchTiming(wait=1e6, pace=Pace(1.0, 15.0, resync=1e5))
OWN = "xds"
MINUTE = 60.0


class FaultyConsul(FakeConsul):
    """A `FakeConsul` with faults.

    A token without rights makes Consul reject a request (`forbidden_…`), or leave out of an answer
    what it may not read (`omits_…`).
    """

    made = Generation.CLASSIC  # set by the fixture
    fault: SidecarError | None = None  # of every request
    consistent_fault: SidecarError | None = None  # of requests to the leader
    leader = True  # whether the servers have a leader
    hangs_on = ""  # a service whose consistent reads never return
    times_out_on = ""  # a service or prefix whose requests fail
    resubscribing = False  # whether the agent has not resubscribed to the servers
    forbidden_service = ""  # its instances and keys
    forbidden_instances = ""  # those of a service
    forbidden_key = ""  # or prefix
    omitted_key = ""  # from lists; reading it is rejected
    omits_all = False
    omits_keys = False
    omits_service = ""  # its instances
    omits_instance = ""

    def __init__(self, model: ConsulModel) -> None:
        super().__init__(model, generation=self.made)
        self.datacenters: dict[str, FaultyConsul] = {}

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
        if dc:
            return await self._elsewhere(name, index, wait, consistent, dc)
        self._fail(name, consistent and index == 0)
        if self.forbidden_instances == name:
            raise Rejected("Permission denied")
        if self.times_out_on == name:
            raise Unavailable("Consul: no answer in time")
        if self.hangs_on == name and consistent:
            await asyncio.Event().wait()
        if self.resubscribing and index and streamed and self.generation is Generation.STREAMING:
            await asyncio.Event().wait()
        answer = await super().health_service(name, index=index, wait=wait, streamed=streamed)
        self._fail(name, False)
        if name == self.omits_service:
            answer = replace(answer, value=())
        shown = tuple(entry for entry in answer.value if entry.id != self.omits_instance)
        filtered = len(shown) < len(answer.value) and not answer.streamed
        return self._seen(replace(answer, value=shown, filtered=filtered), ())

    async def kv_prefix(
        self, prefix: str, *, index: int = 0, wait: float = 0, consistent: bool = False
    ) -> QueryResult[tuple[KVEntry, ...]]:
        self._fail(prefix.split("/")[1], consistent and index == 0)
        if prefix == self.forbidden_key:
            raise Rejected("Permission denied")
        if prefix == self.times_out_on:
            raise Unavailable("Consul: no answer in time")
        answer = await super().kv_prefix(prefix, index=index, wait=wait)
        self._fail(prefix.split("/")[1], False)
        return self._seen(replace(answer, value=()) if self.omits_keys else answer, ())

    async def kv(self, key: str, *, consistent: bool = False) -> QueryResult[KVEntry | None]:
        self._fail(key.split("/")[1], consistent)
        # A list leaves out what the token may not read; only here Consul says so.
        if self.omits_all or self.omits_keys or key in (self.forbidden_key, self.omitted_key):
            raise Rejected("Permission denied")
        answer = await super().kv(key)
        return replace(answer, known_leader=self.leader)

    async def _elsewhere(
        self, name: str, index: int, wait: float, consistent: bool, dc: str
    ) -> QueryResult[tuple[ServiceEntry, ...]]:
        if dc not in self.datacenters:
            raise Unavailable(f"Consul: no path to datacenter {dc}")
        there = self.datacenters[dc]
        return await there.health_service(name, index=index, wait=wait, consistent=consistent)

    async def wake(self) -> None:
        """Wake blocking queries, after a change."""
        async with self._changed:
            self.model.index += 1
            self._changed.notify_all()

    def up(self, name: str, service: str = "triton") -> None:
        """A healthy instance."""
        self.model.register(
            {
                "ID": name,
                "Name": service,
                "Address": f"10.0.0.{ord(name[0])}",
                "Port": 8001,
                "Meta": {"sidecar_grpc_port": "9001"},
                "Checks": [{"CheckID": f"{name}:verdict", "Name": "verdict"}],
            }
        )
        self.model.set_check(f"{name}:verdict", "passing", "fine", 0.0)

    def order(self, document: str | None) -> None:
        """Write the policy, or delete it."""
        self.model.index += 1
        key = policy_key("triton")
        if document is None:
            del self.model.keys[key]
        else:
            self.model.keys[key] = KVEntry(key, document.encode(), None, self.model.index, 0)

    def lead(self, name: str, epoch: int | None = None) -> None:
        """Write the lock as its holder would."""
        self.model.index += 1
        value = json.dumps({"instance": name, "session": name}).encode()
        index = self.model.index if epoch is None else epoch
        for key, session in ((lock.lock_key("triton"), name), (lock.epoch_key("triton"), None)):
            self.model.keys[key] = KVEntry(key, value, session, index, 1)

    async def sees_all(self, name: str) -> bool:
        return not self.omits_all and not self.omits_instance and name != self.omits_service

    def _fail(self, name: str, consistent: bool) -> None:
        if self.forbidden_service == name:
            raise Rejected("Permission denied")
        fault = self.fault or (self.consistent_fault if consistent else None)
        if fault:
            raise fault

    def _seen(self, answer: QueryResult[T], nothing: T) -> QueryResult[T]:
        value = nothing if self.omits_all else answer.value
        return replace(answer, value=value, known_leader=answer.known_leader and self.leader)


@pytest.fixture(params=Generation, ids=str, autouse=True)
def generation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Generation:
    """Run each test with the model of every generation of Consul."""
    monkeypatch.setattr(FaultyConsul, "made", request.param)
    made: Generation = request.param
    return made


class RecordedEvents:
    """A listener that records what the watches report."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.failing: set[str] = set()
        self.excluded: list[SkippedEntry] = []
        self.kept: dict[str, tuple[RetainedInstance, ...]] = {}
        self.given_up: list[tuple[str, str]] = []
        self.refused: list[str] = []
        self.stale: set[str] = set()
        self.forgotten: list[str] = []

    def answered(self, service: str, what: str) -> None:
        self.failing.discard(what)

    def failed(self, service: str, what: str, why: str) -> None:
        self.failures.append(why)
        self.failing.add(what)

    def skipped(self, service: str, found: tuple[SkippedEntry, ...]) -> None:
        self.excluded = list(found)

    def retained(self, service: str, found: tuple[RetainedInstance, ...]) -> None:
        self.kept[service] = found

    def dropped(self, service: str, instance: str, why: str) -> None:
        self.given_up.append((instance, why))

    def policy_refused(self, service: str, why: str) -> None:
        self.refused.append(why)

    def unconfirmed(self, service: str, stale: bool) -> None:
        (self.stale.add if stale else self.stale.discard)(service)

    def ended(self, service: str) -> None:
        self.forgotten.append(service)


class Scene:
    """A running watch; `published` has every catalog that it has published."""

    def __init__(
        self,
        *services: str,
        consul: FaultyConsul | None = None,
        kept: CachedState | None = None,
        zone: str | None = "",
    ) -> None:
        self.consul = consul or FaultyConsul(ConsulModel())
        # The health replies of instances; the others do not answer.
        self.replies: dict[str, HealthReply] = {}
        self.clock = VirtualClock()
        self.recorded = RecordedEvents()
        self.published: list[Catalog] = []
        means = WatchContext(self.consul, self.clock, self.recorded, OWN, TIMING, self.ask)
        self.watch = CatalogWatch(services, means, kept, zone, OWN)

    async def ask(self, instance: Instance) -> HealthReply:
        return self.replies.get(instance.id, HealthReply.SILENCE)

    async def record(self) -> None:
        async for catalog in self.watch.catalog:
            if catalog is not None:
                self.published.append(catalog)

    @property
    def service(self) -> ServiceCatalog:
        return self.published[-1].services[0]

    @property
    def ids(self) -> list[str]:
        return [instance.id for instance in self.service.instances]

    async def change(self) -> None:
        """Let Consul report the changes, and every loop process them."""
        await self.consul.wake()
        await self.clock.advance(0.1)


@asynccontextmanager
async def running(scene: Scene) -> AsyncIterator[Scene]:
    tasks = [asyncio.create_task(scene.record()), asyncio.create_task(scene.watch.run())]
    await scene.clock.advance(0.1)
    try:
        yield scene
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    """Two healthy instances, of which `a` is primary; the control plane is registered."""
    scene = Scene("triton")
    scene.consul.up("a")
    scene.consul.up("b")
    scene.consul.up("xds", OWN)
    scene.consul.lead("a")
    async with running(scene):
        yield scene


FOLLOWED = '{"affinity": {"sequence_header": "x-sequence"}}'
FOLLOWED_STRICTLY = '{"mode": "strict", "affinity": {"sequence_header": "x-sequence"}}'


async def in_force(scene: Scene, document: str) -> int:
    """Write a policy that the watch has seen; gives its ModifyIndex."""
    scene.consul.order(document)
    index = scene.consul.model.index
    await scene.change()
    return index
