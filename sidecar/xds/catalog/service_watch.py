"""The watches of one service.

Each service has watches for its instances, its lock and its policy, and one more for its instances
in each datacenter that the policy names. A failure freezes what is known: without an answer, or
with one from servers without a leader, nothing changes.

Acts: asyncio.
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
from sidecar.xds.catalog.instance_watch import (
    CachedInstances,
    InstanceWatch,
    WatchContext,
    recording_refusal,
)
from sidecar.xds.catalog.policy_indexes import NEVER, PolicyIndexes, without_history
from sidecar.xds.catalog.retention import Leadership

LOCK, POLICY = "lock", "policy"


@dataclass(frozen=True, slots=True)
class PolicyInForce:
    """The policy in force, and its document if there is one.

    `refused` is why a newer document is invalid; `since` dates the policy by its indexes.
    """

    policy: TrafficPolicy = DEFAULTS
    document: bytes | None = None
    refused: str = ""
    since: PolicyIndexes = NEVER


class ServiceWatch:
    """What is known about one service. `leadership` and `in_force` are None until first read.

    `stale` is True while some of it comes from the state file and Consul has not answered yet.
    """

    def __init__(
        self,
        name: str,
        context: WatchContext,
        news: Callable[[], None],
        cached: CachedService | None = None,
    ) -> None:
        self.name = name
        self.leadership: Leadership | None = None
        self.in_force: PolicyInForce | None = None
        self.stale = cached is not None
        self.local = InstanceWatch(name, "", context, self._updated, _cached_instances(cached, ""))
        self.remote: dict[str, InstanceWatch] = {}
        self._context = context
        self._news = news
        self._cached = cached
        self._published: ServiceCatalog | None = None
        self._lock_read = self._policy_read = False
        # Whether another policy may have been in force since the last successful read.
        self._may_have_missed_policy = True
        # When (Unix ms) the default policy was published because none was known; 0 for never.
        self._defaults_published_at = 0
        self._refused: frozenset[str] = frozenset()  # the watches that Consul refuses to answer
        self._first: float | None = None  # when (monotonic seconds) the first answer came
        self._datacenters: Latest[tuple[str, ...]] = Latest(())
        if cached is not None:
            document = None if cached.policy is None else cached.policy.encode()
            self.leadership = cached.leadership
            policy = DEFAULTS if document is None else parse(document)
            self._set_policy(PolicyInForce(policy, document, since=cached.since))
            self._set_datacenters(self._datacenters.value)
            context.listener.unconfirmed(name, stale=True)

    async def run(self) -> None:
        """Watch until cancelled."""
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
    def answered(self) -> bool:
        """Whether any of the watches was answered."""
        return self._first is not None

    @property
    def refused(self) -> bool:
        """Whether Consul refuses to show any part of it, which will not change soon."""
        return bool(self._refused) or self.local.refused

    def unsettled(self) -> ServiceCatalog:
        """What to publish while too little is known: the policy counts as soon as it was read."""
        if self.in_force is None:
            self._defaults_published_at = int(self._context.clock.wall() * 1000)
        in_force = self.in_force or PolicyInForce()
        return ServiceCatalog(
            self.name, settled=False, policy=in_force.policy, since=in_force.since
        )

    def catalog(self, now: float) -> ServiceCatalog | None:
        """What to publish about the service; None while too little is known."""
        if self._published is not None and self._awaits_other_answers(now):
            return self._published
        state = self.local.retain(now)
        if state is None or self.leadership is None or self.in_force is None:
            return None
        found = [state, *(each.retain(now) for each in self.remote.values())]
        instances = tuple(one for each in found if each for one in each.instances)
        leader, in_force = self.leadership.leader, self.in_force
        self._published = ServiceCatalog(
            self.name, instances, leader, state.settled, in_force.policy, in_force.since
        )
        return self._published

    def deadlines(self, now: float) -> Iterable[float]:
        """When (monotonic seconds) to look again even without news."""
        if self._first is not None and self._awaits_other_answers(now):
            yield self._first + self._context.timing.together
        yield from (at for each in self.watches if (at := each.deadline(now)) is not None)

    def cached(self) -> CachedService | None:
        """The state to restore after a restart; None while there is none."""
        shown = self._published
        if shown is None or not shown.settled or self.leadership is None or self.in_force is None:
            return self._cached
        missing = {name: at for each in self.watches for name, at in each.missing.items()}
        in_force = self.in_force
        text = None if in_force.document is None else in_force.document.decode()
        self._cached = CachedService(
            shown.instances, missing, self.leadership, text, in_force.since
        )
        return self._cached

    def _awaits_other_answers(self, now: float) -> bool:
        """Whether the first answers are held back, so that a role swap is not published in halves.

        The cached state is complete, and stays published until then.
        """
        first, together = self._first, self._context.timing.together
        return self.stale and first is not None and now < first + together

    def _updated(self) -> None:
        """A watch was answered."""
        if self._first is None:
            self._first = self._context.clock.now()
        whole = self._lock_read and self._policy_read and self.local.view is not None
        if self.stale and whole:
            self.stale = False
            self._context.listener.unconfirmed(self.name, stale=False)
        self._news()

    async def _follow(
        self,
        what: str,
        prefix: str,
        see: Callable[[tuple[KVEntry, ...]], Awaitable[None]],
    ) -> None:
        context = self._context

        def refused(is_so: bool) -> None:
            now = self._refused | {what} if is_so else self._refused - {what}
            if now != self._refused:
                self._refused = now
                self._news()

        async def ask(index: int) -> QueryResult[tuple[KVEntry, ...]]:
            wait = context.timing.wait
            with recording_refusal(refused):
                return await context.consul.kv_prefix(
                    prefix, index=index, wait=wait, consistent=index == 0
                )

        async def on_answer(answer: QueryResult[tuple[KVEntry, ...]]) -> None:
            with recording_refusal(refused):
                await see(answer.value)
            refused(False)
            context.listener.answered(self.name, what)

        def failed(why: str) -> None:
            self._may_have_missed_policy = self._may_have_missed_policy or what == POLICY
            context.listener.failed(self.name, what, why)

        await follow(ask, on_answer, failed, context.clock, context.timing.pace, context.budget)

    async def _see_lock(self, entries: tuple[KVEntry, ...]) -> None:
        previous = self.leadership or Leadership()
        on_answer = lock.read(self.name, entries, 0)
        leadership = retention.retain_leader(previous, on_answer)
        if retention.is_regression(previous, on_answer):
            answer = await self._context.consul.kv_prefix(lock.prefix(self.name), consistent=True)
            if answer.known_leader:
                on_answer = lock.read(self.name, answer.value, 0)
                leadership = retention.retain_leader(previous, on_answer, verified=True)
        news = not self._lock_read or leadership != self.leadership
        self.leadership, self._lock_read = leadership, True
        if news:
            self._updated()

    async def _see_policy(self, entries: tuple[KVEntry, ...]) -> None:
        key, before = policy_key(self.name), self.in_force or PolicyInForce()
        entry = next((entry for entry in entries if entry.key == key), None)
        document = entry.value if entry else None
        if document is None and (before.document is not None or not self._policy_read):
            await self._prove_absence(key, in_force=before.document is not None)
        in_force = _read(document, before)
        if not in_force.refused:
            since = self._since(before, in_force.policy, entry.modify_index if entry else 0)
            in_force = replace(in_force, since=since)
            self._may_have_missed_policy, self._defaults_published_at = False, 0
        if in_force.refused != before.refused:
            self._context.listener.policy_refused(self.name, in_force.refused)
        news = not self._policy_read or in_force != self.in_force
        self._policy_read = True
        self._set_policy(in_force)
        if news:
            self._updated()

    def _since(self, before: PolicyInForce, policy: TrafficPolicy, written: int) -> PolicyIndexes:
        """The indexes of a policy that was read just now."""
        if written == before.since.written:
            return before.since
        if self._may_have_missed_policy:
            return without_history(written, self._defaults_published_at)
        return before.since.changed(before.policy, policy, written)

    async def _prove_absence(self, key: str, *, in_force: bool) -> None:
        """Verify that a key does not exist, and is not just hidden: a list leaves that open.

        If it was `known`, servers that do not show our own entry either are not trusted.

        Raises:
            Rejected: we may not read it.
            Unavailable: there is no proof.
        """
        answer = await self._context.consul.kv(key, consistent=True)
        there = not answer.known_leader or answer.value is not None
        if there or (in_force and not await self._context.sees_witness()):
            raise Unavailable(
                "Consul does not return the policy, and nothing proves that there is none"
            )

    def _set_policy(self, in_force: PolicyInForce) -> None:
        self.in_force = in_force
        self._datacenters.set(in_force.policy.locality.datacenters)

    async def _watch_datacenters(self, tasks: asyncio.TaskGroup) -> None:
        """Run one watch for each datacenter that the policy names."""
        loops: dict[str, asyncio.Task[None]] = {}
        async for wanted in self._datacenters:
            for dc in loops.keys() - set(wanted):
                loops.pop(dc).cancel()
                self._context.listener.ended(self.remote[dc].name)
            self._set_datacenters(wanted)
            for dc in self.remote.keys() - loops.keys():
                loops[dc] = tasks.create_task(self.remote[dc].run())

    def _set_datacenters(self, wanted: tuple[str, ...]) -> None:
        """Have a watch for each of these datacenters, and no others."""
        self.remote = {dc: self.remote.get(dc) or self._remote_watch(dc) for dc in wanted}
        self._news()

    def _remote_watch(self, dc: str) -> InstanceWatch:
        cached = _cached_instances(self._cached, dc)
        return InstanceWatch(self.name, dc, self._context, self._news, cached)


def _read(document: bytes | None, before: PolicyInForce) -> PolicyInForce:
    """The policy in a document; the earlier one if the document is invalid."""
    if document is None:
        return PolicyInForce()
    if document == before.document:
        return replace(before, refused="")
    try:
        return PolicyInForce(parse(document), document)
    except ConfigError as error:
        return replace(before, refused=str(error))


def _cached_instances(cached: CachedService | None, dc: str) -> CachedInstances | None:
    """The part of one datacenter."""
    if cached is None:
        return None
    instances = tuple(each for each in cached.instances if each.datacenter == dc)
    ids = {each.id for each in instances}
    missing = {name: at for name, at in cached.missing.items() if name in ids}
    return CachedInstances(instances, missing)
