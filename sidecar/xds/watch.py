"""The watching loops: blocking queries on Consul, combined into one `Catalog`.

Each service has two watches, its instances and its lock. What goes wrong freezes what is known:
without an answer, or from servers without a leader, nothing is learnt.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from sidecar.clock import Clock
from sidecar.consul_api import Answer, ConsulApi, KVEntry, ServiceEntry, next_index
from sidecar.election import lock
from sidecar.errors import SidecarError
from sidecar.latest import Latest
from sidecar.xds import belief
from sidecar.xds.belief import Leadership, Memory
from sidecar.xds.catalog import Catalog, Instance, ServiceCatalog
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
    # How often to ask again whether a service is really empty.
    verify: float = 5.0


class WatchListener(Protocol):
    """Told what the watches see, for metrics and logs."""

    def answered(self, service: str) -> None:
        """Consul has answered; what is known is up to date."""

    def failed(self, service: str, why: str) -> None:
        """Nothing was learnt; what is known stays."""

    def left_out(self, service: str, found: tuple[LeftOut, ...]) -> None:
        """Entries that cannot be used; called when they change."""


class ServiceWatch:
    """What is known of one service. `instances` and `leadership` are None until first read."""

    def __init__(
        self,
        name: str,
        consul: ConsulApi,
        clock: Clock,
        timing: WatchTiming,
        listener: WatchListener,
    ) -> None:
        self.name = name
        self.instances: Latest[tuple[Instance, ...] | None] = Latest(None)
        self.leadership: Latest[Leadership | None] = Latest(None)
        self._consul = consul
        self._clock = clock
        self._timing = timing
        self._listener = listener
        self._left_out: tuple[LeftOut, ...] = ()

    async def run(self) -> None:
        """Watch for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(self._health, self._see_instances))
            tasks.create_task(self._follow(self._lock, self._see_lock))

    async def is_empty(self, witness: str) -> bool:
        """Whether the service has no instance, by a read that can be trusted.

        The answer counts only if the same view shows the `witness`, a service that is surely
        registered (our own): Consul answers a bad token, and a catalog that is still being filled,
        with an empty list.
        """
        try:
            entries = await self._consul.health_service(self.name, consistent=True)
            others = await self._consul.health_service(witness, consistent=True)
        except SidecarError as error:
            self._listener.failed(self.name, str(error))
            return False
        known = entries.known_leader and others.known_leader
        return known and not entries.value and bool(others.value)

    async def _follow(
        self,
        query: Callable[[int], Awaitable[Answer[T]]],
        see: Callable[[T], Awaitable[None]],
    ) -> None:
        index = 0
        while True:
            try:
                answer = await query(index)
                if answer.known_leader:
                    await see(answer.value)
                    self._listener.answered(self.name)
                    index = next_index(index, answer.index)
                    continue
                self._listener.failed(self.name, "Consul's servers have no leader")
            except SidecarError as error:
                self._listener.failed(self.name, str(error))
                # The agent may be another one now, whose indexes begin anew.
                index = 0
            await self._clock.sleep(self._clock.jitter(self._timing.retry, 0.5))

    async def _health(self, index: int) -> Answer[tuple[ServiceEntry, ...]]:
        return await self._consul.health_service(
            self.name, index=index, wait=self._timing.wait, consistent=index == 0
        )

    async def _lock(self, index: int) -> Answer[tuple[KVEntry, ...]]:
        return await self._consul.kv_prefix(
            lock.prefix(self.name), index=index, wait=self._timing.wait, consistent=index == 0
        )

    async def _see_instances(self, entries: tuple[ServiceEntry, ...]) -> None:
        instances, left_out = read_instances(entries)
        if left_out != self._left_out:
            self._left_out = left_out
            self._listener.left_out(self.name, left_out)
        self.instances.set(instances)

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
            tasks.create_task(self._combine())

    async def _combine(self) -> None:
        while True:
            seen = self._versions()
            pause = await self._publish()
            await self._change(seen, pause)
            await self._clock.sleep(self._timing.settle)

    async def _publish(self) -> float | None:
        """Publish what is known; gives the seconds after which to look again at the latest."""
        services, pauses = [], []
        for watch in self._watches:
            instances, leadership = watch.instances.value, watch.leadership.value
            if instances is None or leadership is None:
                services.append(ServiceCatalog(watch.name, settled=False))
                continue
            memory = await self._remember(watch, instances)
            services.append(memory.catalog(watch.name, leadership.leader))
            pauses.append(self._pause(memory))
        if pauses:
            self.catalog.set(Catalog(tuple(services)))
        return min((pause for pause in pauses if pause is not None), default=None)

    def _pause(self, memory: Memory) -> float | None:
        deadline = belief.next_deadline(memory, self._timing.hold)
        if deadline is None:
            return None
        # One that has passed waits for a proof that could not be had.
        remaining = deadline - self._clock.now()
        return remaining if remaining > 0 else self._timing.verify

    async def _remember(self, watch: ServiceWatch, observed: tuple[Instance, ...]) -> Memory:
        now = self._clock.now()
        previous = self._memories.get(watch.name, Memory(since=now))
        hold = self._timing.hold
        memory = belief.retain(previous, observed, now, hold)
        if belief.wants_verification(memory, observed, now, hold):
            verified = await watch.is_empty(self._witness)
            memory = belief.retain(previous, observed, now, hold, verified_empty=verified)
        self._memories[watch.name] = memory
        return memory

    def _versions(self) -> list[int]:
        return [cell.version for cell in self._cells()]

    def _cells(self) -> list[Latest[tuple[Instance, ...] | None] | Latest[Leadership | None]]:
        return [cell for watch in self._watches for cell in (watch.instances, watch.leadership)]

    async def _change(self, seen: list[int], timeout: float | None) -> None:
        """Wait for a change of any watch, or until the timeout has passed."""
        waits: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(cell.changed(version))
            for cell, version in zip(self._cells(), seen, strict=True)
        ]
        if timeout is not None:
            waits.append(asyncio.ensure_future(self._clock.sleep(timeout)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
