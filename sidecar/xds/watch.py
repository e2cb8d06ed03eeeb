"""The watching loops: blocking queries on Consul, combined into one `Catalog`.

Each service has two watches, its instances and its lock. What goes wrong freezes what is known:
without an answer, or from servers without a leader, nothing is learnt.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from sidecar.clock import Clock
from sidecar.consul_api import Answer, ConsulApi, KVEntry, ServiceEntry
from sidecar.election import lock
from sidecar.errors import SidecarError
from sidecar.latest import Latest, first_of
from sidecar.watch import follow
from sidecar.xds import belief
from sidecar.xds.belief import Leadership, Memory, View
from sidecar.xds.catalog import Catalog, ServiceCatalog
from sidecar.xds.evidence import LeftOut, read_instances

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WatchTiming:
    """Seconds."""

    # How long a query blocks. Short enough that a connection lost without a word is noticed.
    wait: float = 30.0
    # Between attempts while Consul does not answer or has no leader.
    retry: float = 1.0
    # Changes this close together are published as one: a role swap wakes two watches.
    settle: float = 0.005
    # How long an instance that vanished without a word is kept.
    hold: float = 60.0
    # How often to look whether a view has to be verified.
    verify: float = 5.0


class WatchListener(Protocol):
    """Told what the watches see, for metrics and logs. `what` is watched: instances or lock."""

    def answered(self, service: str, what: str) -> None:
        """Consul has answered; what is known is up to date."""

    def failed(self, service: str, what: str, why: str) -> None:
        """Nothing was learnt; what is known stays."""

    def left_out(self, service: str, found: tuple[LeftOut, ...]) -> None:
        """Entries that cannot be used; called when they change."""


class ServiceWatch:
    """What is known of one service. `view` and `leadership` are None until first read."""

    def __init__(
        self,
        name: str,
        consul: ConsulApi,
        clock: Clock,
        timing: WatchTiming,
        listener: WatchListener,
    ) -> None:
        self.name = name
        self.view: Latest[View | None] = Latest(None)
        self.leadership: Latest[Leadership | None] = Latest(None)
        self._consul = consul
        self._clock = clock
        self._timing = timing
        self._listener = listener
        self._left_out: tuple[LeftOut, ...] = ()

    async def run(self) -> None:
        """Watch for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow("instances", self._health, self._see_instances))
            tasks.create_task(self._follow("lock", self._lock, self._see_lock))

    async def verify(self, witness: str) -> None:
        """Mark the view as verified if a read that can be trusted shows the same.

        The answer counts only if the servers also show the `witness`, a service that is surely
        registered (our own): Consul answers a bad token, and a catalog that is still being filled,
        with an empty list.
        """
        try:
            entries = await self._consul.health_service(self.name, consistent=True)
            others = await self._consul.health_service(witness, consistent=True)
        except SidecarError as error:
            self._listener.failed(self.name, "instances", str(error))
            return
        view, _ = _look(entries.value)
        trusted = entries.known_leader and others.known_leader and others.value
        if trusted and view == self.view.value:
            self.view.set(replace(view, verified=True))

    async def _follow(
        self,
        what: str,
        query: Callable[[int], Awaitable[Answer[T]]],
        see: Callable[[T], Awaitable[None]],
    ) -> None:
        async def seen(answer: Answer[T]) -> None:
            await see(answer.value)
            self._listener.answered(self.name, what)

        def failed(why: str) -> None:
            self._listener.failed(self.name, what, why)

        await follow(query, seen, failed, self._clock, self._timing.retry)

    async def _health(self, index: int) -> Answer[tuple[ServiceEntry, ...]]:
        return await self._consul.health_service(
            self.name, index=index, wait=self._timing.wait, consistent=index == 0
        )

    async def _lock(self, index: int) -> Answer[tuple[KVEntry, ...]]:
        return await self._consul.kv_prefix(
            lock.prefix(self.name), index=index, wait=self._timing.wait, consistent=index == 0
        )

    async def _see_instances(self, entries: tuple[ServiceEntry, ...]) -> None:
        view, left_out = _look(entries)
        if left_out != self._left_out:
            self._left_out = left_out
            self._listener.left_out(self.name, left_out)
        self.view.set(view)

    async def _see_lock(self, entries: tuple[KVEntry, ...]) -> None:
        previous = self.leadership.value or Leadership()
        seen = lock.read(self.name, entries, 0)
        believed = belief.believe_leader(previous, seen)
        if belief.is_regression(previous, seen):
            answer = await self._consul.kv_prefix(lock.prefix(self.name), consistent=True)
            if answer.known_leader:
                seen = lock.read(self.name, answer.value, 0)
                believed = belief.believe_leader(previous, seen, verified=True)
        self.leadership.set(believed)


def _look(entries: tuple[ServiceEntry, ...]) -> tuple[View, tuple[LeftOut, ...]]:
    instances, left_out = read_instances(entries)
    ids = {instance.id for instance in instances}
    missed = any(found.may_serve and found.id not in ids for found in left_out)
    return View(instances, complete=not missed), left_out


class CatalogWatch:
    """All services, combined. `catalog` is None until something is known of one of them.

    A service is unsettled until both its watches have been answered: one that Consul does not let
    us read must not silence the others.
    """

    def __init__(
        self,
        services: tuple[str, ...],
        witness: str,
        consul: ConsulApi,
        clock: Clock,
        listener: WatchListener,
        timing: WatchTiming | None = None,
    ) -> None:
        self.catalog: Latest[Catalog | None] = Latest(None)
        self._timing = timing or WatchTiming()
        self._watches = [
            ServiceWatch(name, consul, clock, self._timing, listener) for name in services
        ]
        self._memories: dict[str, Memory] = {}
        self._witness = witness
        self._clock = clock

    async def run(self) -> None:
        """Watch and publish for ever."""
        async with asyncio.TaskGroup() as tasks:
            for watch in self._watches:
                tasks.create_task(watch.run())
                tasks.create_task(self._verify(watch))
            tasks.create_task(self._combine())

    async def _combine(self) -> None:
        while True:
            cells = [cell for watch in self._watches for cell in (watch.view, watch.leadership)]
            news = [cell.changed(cell.version) for cell in cells]
            await first_of(self._clock, self._publish(), *news)
            await self._clock.sleep(self._timing.settle)

    async def _verify(self, watch: ServiceWatch) -> None:
        """Beside the publishing, which must not wait for Consul."""
        while True:
            await self._clock.sleep(self._timing.verify)
            view, memory = watch.view.value, self._memories.get(watch.name)
            if view is not None and memory is not None:
                now, hold = self._clock.now(), self._timing.hold
                if belief.wants_verification(memory, view, now, hold):
                    await watch.verify(self._witness)

    def _publish(self) -> float | None:
        """Publish what is known; gives the seconds after which to look again at the latest."""
        services, deadlines = [], []
        now, hold = self._clock.now(), self._timing.hold
        for watch in self._watches:
            view, leadership = watch.view.value, watch.leadership.value
            if view is None or leadership is None:
                services.append(ServiceCatalog(watch.name, settled=False))
                continue
            memory = self._memories.get(watch.name, Memory(since=now))
            memory = self._memories[watch.name] = belief.retain(memory, view, now, hold)
            services.append(memory.catalog(watch.name, leadership.leader))
            deadlines.append(belief.next_deadline(memory, hold))
        if deadlines:
            self.catalog.set(Catalog(tuple(services)))
        # One that has passed waits for news.
        return min((at - now for at in deadlines if at is not None and at > now), default=None)
