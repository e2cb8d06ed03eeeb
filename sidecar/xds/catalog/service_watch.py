"""The watches of one service.

Each service has watches for its instances, its lock and its policy, and one more for its instances
in each datacenter that the policy names. What goes wrong freezes what is known: without an answer,
or from servers without a leader, nothing is learnt.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace

from sidecar.consul.api import KVEntry, QueryResult
from sidecar.consul.blocking_query import follow
from sidecar.election.keys import lock
from sidecar.runtime.errors import ConfigError, Unavailable
from sidecar.runtime.latest import Latest
from sidecar.traffic.document import parse, policy_key
from sidecar.traffic.policy import DEFAULTS, TrafficPolicy
from sidecar.xds.catalog import retention
from sidecar.xds.catalog.cached_state import CachedService
from sidecar.xds.catalog.catalog import ServiceCatalog
from sidecar.xds.catalog.instance_watch import CachedInstances, InstanceWatch, WatchContext, noting
from sidecar.xds.catalog.policy_indexes import NEVER, PolicyIndexes, anew
from sidecar.xds.catalog.retention import Leadership

LOCK, POLICY = "lock", "policy"


@dataclass(frozen=True, slots=True)
class PolicyInForce:
    """The policy in force, and its document if there is one.

    `refused` is why a newer document cannot be used; `since`, how long it has been what it is.
    """

    policy: TrafficPolicy = DEFAULTS
    document: bytes | None = None
    refused: str = ""
    since: PolicyIndexes = NEVER


class ServiceWatch:
    """What is known of one service. `leadership` and `ordered` are None until first read.

    `stale` is True while some of it is from an earlier life, as Consul has not been heard yet.
    """

    def __init__(
        self,
        name: str,
        means: WatchContext,
        news: Callable[[], None],
        kept: CachedService | None = None,
    ) -> None:
        self.name = name
        self.leadership: Leadership | None = None
        self.ordered: PolicyInForce | None = None
        self.stale = kept is not None
        self.local = InstanceWatch(name, "", means, self._heard, _remembered(kept, ""))
        self.remote: dict[str, InstanceWatch] = {}
        self._means = means
        self._news = news
        self._kept = kept
        self._shown: ServiceCatalog | None = None
        self._lock_read = self._policy_read = False
        self._overlooked = True  # whether another policy may have been in force since the last look
        self._misled = 0  # when (Unix ms) Envoys were told of one by default, as none was known
        self._refused: frozenset[str] = frozenset()  # which of them Consul refuses to answer
        self._first: float | None = None  # when (monotonic seconds) the first answer came
        self._datacenters: Latest[tuple[str, ...]] = Latest(())
        if kept is not None:
            document = None if kept.policy is None else kept.policy.encode()
            self.leadership = kept.leadership
            policy = DEFAULTS if document is None else parse(document)
            self._order(PolicyInForce(policy, document, since=kept.since))
            self._reach(self._datacenters.value)
            means.listener.unconfirmed(name, stale=True)

    async def run(self) -> None:
        """Watch for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.local.run())
            tasks.create_task(self._follow(LOCK, lock.prefix(self.name), self._see_lock))
            tasks.create_task(self._follow(POLICY, policy_key(self.name), self._see_policy))
            tasks.create_task(self._watch_datacenters(tasks))

    @property
    def watches(self) -> tuple[InstanceWatch, ...]:
        """Those of the instances, the local one first."""
        return (self.local, *self.remote.values())

    @property
    def heard(self) -> bool:
        """Whether any of the watches has been answered."""
        return self._first is not None

    @property
    def refused(self) -> bool:
        """Whether Consul refuses to show any part of it, which will not change soon."""
        return bool(self._refused) or self.local.refused

    def unsettled(self) -> ServiceCatalog:
        """What is published while too little is known: the policy counts already, once it is."""
        if self.ordered is None:
            self._misled = int(self._means.clock.wall() * 1000)
        known = self.ordered or PolicyInForce()
        return ServiceCatalog(self.name, settled=False, policy=known.policy, since=known.since)

    def catalog(self, now: float) -> ServiceCatalog | None:
        """What is to be published of the service; None while too little is known."""
        if self._shown is not None and self._waits_for_the_rest(now):
            return self._shown
        memory = self.local.believe(now)
        if memory is None or self.leadership is None or self.ordered is None:
            return None
        found = [memory, *(each.believe(now) for each in self.remote.values())]
        instances = tuple(one for each in found if each for one in each.instances)
        leader, known = self.leadership.leader, self.ordered
        self._shown = ServiceCatalog(
            self.name, instances, leader, memory.settled, known.policy, known.since
        )
        return self._shown

    def deadlines(self, now: float) -> Iterable[float]:
        """When (monotonic seconds) to look again although there is no news."""
        if self._first is not None and self._waits_for_the_rest(now):
            yield self._first + self._means.timing.together
        yield from (at for each in self.watches if (at := each.deadline(now)) is not None)

    def kept(self) -> CachedService | None:
        """What a later life needs to know; None while that is nothing."""
        shown = self._shown
        if shown is None or not shown.settled or self.leadership is None or self.ordered is None:
            return self._kept
        missing = {name: at for each in self.watches for name, at in each.missing.items()}
        known = self.ordered
        text = None if known.document is None else known.document.decode()
        self._kept = CachedService(shown.instances, missing, self.leadership, text, known.since)
        return self._kept

    def _waits_for_the_rest(self, now: float) -> bool:
        """Whether the first answers are held back, lest a role that was swapped goes out in halves.

        What is from an earlier life is whole, and stays meanwhile.
        """
        first, together = self._first, self._means.timing.together
        return self.stale and first is not None and now < first + together

    def _heard(self) -> None:
        """Something has been learnt."""
        if self._first is None:
            self._first = self._means.clock.now()
        whole = self._lock_read and self._policy_read and self.local.view is not None
        if self.stale and whole:
            self.stale = False
            self._means.listener.unconfirmed(self.name, stale=False)
        self._news()

    async def _follow(
        self,
        what: str,
        prefix: str,
        see: Callable[[tuple[KVEntry, ...]], Awaitable[None]],
    ) -> None:
        means = self._means

        def refused(is_so: bool) -> None:
            now = self._refused | {what} if is_so else self._refused - {what}
            if now != self._refused:
                self._refused = now
                self._news()

        async def ask(index: int) -> QueryResult[tuple[KVEntry, ...]]:
            wait = means.timing.wait
            with noting(refused):
                return await means.consul.kv_prefix(
                    prefix, index=index, wait=wait, consistent=index == 0
                )

        async def seen(answer: QueryResult[tuple[KVEntry, ...]]) -> None:
            with noting(refused):
                await see(answer.value)
            refused(False)
            means.listener.answered(self.name, what)

        def failed(why: str) -> None:
            self._overlooked = self._overlooked or what == POLICY
            means.listener.failed(self.name, what, why)

        await follow(ask, seen, failed, means.clock, means.timing.pace, means.budget)

    async def _see_lock(self, entries: tuple[KVEntry, ...]) -> None:
        previous = self.leadership or Leadership()
        seen = lock.read(self.name, entries, 0)
        believed = retention.believe_leader(previous, seen)
        if retention.is_regression(previous, seen):
            answer = await self._means.consul.kv_prefix(lock.prefix(self.name), consistent=True)
            if answer.known_leader:
                seen = lock.read(self.name, answer.value, 0)
                believed = retention.believe_leader(previous, seen, verified=True)
        news = not self._lock_read or believed != self.leadership
        self.leadership, self._lock_read = believed, True
        if news:
            self._heard()

    async def _see_policy(self, entries: tuple[KVEntry, ...]) -> None:
        key, before = policy_key(self.name), self.ordered or PolicyInForce()
        entry = next((entry for entry in entries if entry.key == key), None)
        document = entry.value if entry else None
        if document is None and (before.document is not None or not self._policy_read):
            await self._prove_absence(key, known=before.document is not None)
        ordered = _read(document, before)
        if not ordered.refused:
            since = self._since(before, ordered.policy, entry.modify_index if entry else 0)
            ordered = replace(ordered, since=since)
            self._overlooked, self._misled = False, 0
        if ordered.refused != before.refused:
            self._means.listener.policy_refused(self.name, ordered.refused)
        news = not self._policy_read or ordered != self.ordered
        self._policy_read = True
        self._order(ordered)
        if news:
            self._heard()

    def _since(self, before: PolicyInForce, policy: TrafficPolicy, written: int) -> PolicyIndexes:
        """How long a policy that has just been read has been what it is."""
        if written == before.since.written:
            return before.since
        if self._overlooked:
            return anew(written, self._misled)
        return before.since.changed(before.policy, policy, written)

    async def _prove_absence(self, key: str, *, known: bool) -> None:
        """Make sure that a key is not there, and not hidden from us: a list leaves that open.

        One that was `known` is not believed gone by servers that do not know ourselves either.

        Raises:
            Rejected: we may not read it.
            Unavailable: nothing proves it.
        """
        answer = await self._means.consul.kv(key, consistent=True)
        there = not answer.known_leader or answer.value is not None
        if there or (known and not await self._means.sees_witness()):
            raise Unavailable(
                "Consul does not return the policy, and nothing proves that there is none"
            )

    def _order(self, ordered: PolicyInForce) -> None:
        self.ordered = ordered
        self._datacenters.set(ordered.policy.locality.datacenters)

    async def _watch_datacenters(self, tasks: asyncio.TaskGroup) -> None:
        """One watch for each datacenter that the policy names, for as long as it does."""
        loops: dict[str, asyncio.Task[None]] = {}
        async for wanted in self._datacenters:
            for dc in loops.keys() - set(wanted):
                loops.pop(dc).cancel()
                self._means.listener.ended(self.remote[dc].name)
            self._reach(wanted)
            for dc in self.remote.keys() - loops.keys():
                loops[dc] = tasks.create_task(self.remote[dc].run())

    def _reach(self, wanted: tuple[str, ...]) -> None:
        """Have these datacenters, and no others."""
        self.remote = {dc: self.remote.get(dc) or self._beyond(dc) for dc in wanted}
        self._news()

    def _beyond(self, dc: str) -> InstanceWatch:
        kept = _remembered(self._kept, dc)
        return InstanceWatch(self.name, dc, self._means, self._news, kept)


def _read(document: bytes | None, before: PolicyInForce) -> PolicyInForce:
    """The policy that a document orders; of one that is bad, the one before."""
    if document is None:
        return PolicyInForce()
    if document == before.document:
        return replace(before, refused="")
    try:
        return PolicyInForce(parse(document), document)
    except ConfigError as error:
        return replace(before, refused=str(error))


def _remembered(kept: CachedService | None, dc: str) -> CachedInstances | None:
    """The part of one datacenter."""
    if kept is None:
        return None
    instances = tuple(each for each in kept.instances if each.datacenter == dc)
    ids = {each.id for each in instances}
    missing = {name: at for name, at in kept.missing.items() if name in ids}
    return CachedInstances(instances, missing)
