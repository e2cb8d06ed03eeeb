"""The loop that follows the instances of one service in one datacenter, and asks who vanishes."""

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

from sidecar.consul.api import ConsulApi, QueryResult, ServiceEntry, missing_rights
from sidecar.consul.blocking_query import Pace, RetryBudget, follow
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import Rejected, SidecarError
from sidecar.xds.catalog import retention
from sidecar.xds.catalog.catalog import Instance
from sidecar.xds.catalog.catalog_entries import EntryReader, SkippedEntry
from sidecar.xds.catalog.health_query import Ask, HealthQueries, ask
from sidecar.xds.catalog.retention import CatalogView, RetentionRules, RetentionState

INSTANCES, VERIFICATION = "instances", "verification"
_SERVERS = "consul"  # the service that Consul's servers register themselves
_JITTER = 0.2
# Seconds after trouble in which an agent may still stream what was before it: the pauses between
# its attempts to subscribe again grow to two minutes, and an attempt takes a while.
_DISTRUST = 150.0
_PACE = Pace(retry=1.0, longest=15.0, resync=300.0)
_PATIENCE = RetentionRules()


@dataclass(frozen=True, slots=True)
class WatchTiming:
    """Seconds."""

    # How long a query blocks. Short enough that a connection lost without a word is noticed.
    wait: float = 30.0
    # Between attempts while Consul does not answer or has no leader; and after how long to ask as
    # if nothing were known, so that a wake-up that was lost costs no more than that.
    pace: Pace = _PACE
    # Changes this close together are published as one: a role swap wakes two watches.
    settle: float = 0.005
    # How long a first answer waits for those of the other watches, where there is something older
    # that was whole.
    together: float = 2.0
    # How long the first catalog waits for a service that Consul refuses to show: for two more
    # attempts, as a token that was made just now may be on its way.
    refused: float = 5.0
    # How often to look whether a view has to be verified.
    verify: float = 5.0
    patience: RetentionRules = _PATIENCE


@dataclass(frozen=True, slots=True)
class RetainedInstance:
    """An instance that Consul does not show any more, and whether it says itself that it serves."""

    id: str
    serves: bool = False


class WatchListener(Protocol):
    """Told what the watches see, for metrics and logs.

    `what` is watched: instances, lock or policy; a verification is a read beside the watch that has
    to prove what it shows. A service in another datacenter is named
    `service@datacenter`.
    """

    def answered(self, service: str, what: str) -> None:
        """Consul's servers have answered; what is known is up to date."""

    def failed(self, service: str, what: str, why: str) -> None:
        """Nothing was learnt; what is known stays."""

    def left_out(self, service: str, found: tuple[SkippedEntry, ...]) -> None:
        """Entries that cannot be used; called when they change."""

    def held(self, service: str, found: tuple[RetainedInstance, ...]) -> None:
        """Instances that are kept though Consul does not show them; called when they change."""

    def dropped(self, service: str, instance: str, why: str) -> None:
        """One that was held is not kept any more."""

    def policy_refused(self, service: str, why: str) -> None:
        """The policy in Consul cannot be used, and the last good one stays; empty: it can."""

    def unconfirmed(self, service: str, stale: bool) -> None:
        """Whether what is published of the service was read from the disk."""

    def ended(self, service: str) -> None:
        """It is not watched any more."""


@dataclass(frozen=True, slots=True)
class WatchContext:
    """What every watch works with.

    `witness` is a service that is surely registered: our own.
    """

    consul: ConsulApi
    clock: Clock
    listener: WatchListener
    witness: str
    timing: WatchTiming = WatchTiming()
    ask: Ask = ask
    budget: RetryBudget = field(default_factory=RetryBudget)

    async def sees_witness(self, dc: str = "") -> bool:
        """Whether the servers, or those of another datacenter, show us what must be there.

        Consul answers a bad token, and a catalog that is still being filled, with an empty list.
        """
        witness = _SERVERS if dc else self.witness
        answer = await self.consul.health_service(witness, consistent=True, dc=dc)
        return answer.known_leader and bool(answer.value)


@contextmanager
def noting(refused: Callable[[bool], None]) -> Iterator[None]:
    """Tell of a question to Consul that failed whether it was refused: then it will fail again."""
    try:
        yield
    except SidecarError as error:
        refused(isinstance(error, Rejected))
        raise


@dataclass(frozen=True, slots=True)
class CachedInstances:
    """The instances kept from an earlier life; who of them is `missing`, since (Unix seconds)."""

    instances: tuple[Instance, ...] = ()
    missing: Mapping[str, int] = field(default_factory=dict)


class InstanceWatch:
    """What is believed of the instances. `view` is None until Consul has answered.

    Those of another datacenter carry its name, also in their ids: the same id there is another
    instance. `news` is called when there is something to be believed anew.
    """

    def __init__(
        self,
        service: str,
        dc: str,
        means: WatchContext,
        news: Callable[[], None],
        kept: CachedInstances | None = None,
    ) -> None:
        self.name = f"{service}@{dc}" if dc else service
        self.view: CatalogView | None = None
        self.refused = False  # whether that was Consul's last answer
        self.memory: RetentionState | None = None
        self.left_out: tuple[SkippedEntry, ...] = ()
        # By id: since when (Unix seconds) it is missing, and since when it is as it is.
        self.missing: Mapping[str, int] = {}
        self.changed: dict[str, float] = {}
        self._service, self._dc = service, dc
        self._means = means
        self._news = news
        self._hearing = HealthQueries(means.ask, means.clock, news)
        self._held: tuple[RetainedInstance, ...] = ()
        self._reader = EntryReader()
        self._unproven = False  # whether a verification has ever failed
        self._distrusted = -math.inf  # until when (monotonic seconds) nothing streamed is wanted
        if kept is not None:
            self._restore(kept)

    async def run(self) -> None:
        """Watch for ever."""
        means = self._means
        async with asyncio.TaskGroup() as tasks:
            failed = self._failed
            pace = means.timing.pace
            tasks.create_task(follow(self._ask, self._see, failed, means.clock, pace, means.budget))
            tasks.create_task(self._hearing.run())
            tasks.create_task(self._verify())

    def believe(self, now: float) -> RetentionState | None:
        """What is believed now; None while nothing is known."""
        if self.view is None:
            return self.memory
        before = self.memory or RetentionState(since=now)
        patience = self._means.timing.patience
        memory = retention.retain(before, self.view, self._hearing.heard, now, patience)
        self.memory = memory
        if memory != before:
            self._note(before, memory)
        self._tell(memory, now)
        return memory

    def deadline(self, now: float) -> float | None:
        """When (monotonic seconds) to believe anew although there is no news."""
        if self.view is None or self.memory is None:
            return None
        patience = self._means.timing.patience
        return retention.next_deadline(self.memory, self._hearing.heard, now, patience)

    def says_it_serves(self, instance: str) -> bool:
        """Whether one that is missing has said so, as its last word."""
        said = self._hearing.heard.get(instance)
        return said is not None and said.alive is not None and not said.gone

    def _restore(self, kept: CachedInstances) -> None:
        clock = self._means.clock
        now, wall = clock.now(), clock.wall()
        since = {name: now - max(0.0, wall - at) for name, at in kept.missing.items()}
        self.memory = RetentionState(now, kept.instances, since, settled=True)
        self.missing = dict(kept.missing)
        self._hearing.summon(each for each in kept.instances if each.id in since)

    async def _ask(self, index: int) -> QueryResult[tuple[ServiceEntry, ...]]:
        with noting(self._note_refusal):
            answer = await self._means.consul.health_service(
                self._service,
                index=index,
                wait=self._means.timing.wait,
                consistent=index == 0,
                dc=self._dc,
                streamed=self._means.clock.now() >= self._distrusted,
            )
        if answer.streamed and answer.index < index:
            self._distrust()
        return answer

    def _note_refusal(self, refused: bool) -> None:
        if refused != self.refused:
            self.refused = refused
            self._news()

    def _see(self, answer: QueryResult[tuple[ServiceEntry, ...]]) -> None:
        self._note_refusal(False)
        view, left_out = self._look(answer.value)
        view = replace(view, doubtful=answer.streamed or answer.filtered)
        if left_out != self.left_out:
            self.left_out = left_out
            self._means.listener.left_out(self.name, left_out)
        if view.adds_to(self.view):
            self.view = view
            self._news()
        if not answer.streamed:  # which is no word of the servers
            self._means.listener.answered(self.name, INSTANCES)

    def _failed(self, why: str) -> None:
        self._distrust()
        self._means.listener.failed(self.name, INSTANCES, why)

    def _distrust(self) -> None:
        self._distrusted = self._means.clock.now() + _DISTRUST

    def _look(
        self, entries: tuple[ServiceEntry, ...]
    ) -> tuple[CatalogView, tuple[SkippedEntry, ...]]:
        instances, left_out = self._reader.read(entries)
        ids = {instance.id for instance in instances}
        missed = any(found.may_serve and found.id not in ids for found in left_out)
        if self._dc:
            dc = self._dc
            instances = tuple(
                replace(each, id=f"{dc}/{each.id}", datacenter=dc) for each in instances
            )
        return CatalogView(instances, complete=not missed), left_out

    async def _verify(self) -> None:
        """Beside the publishing, which must not wait for Consul."""
        clock, timing = self._means.clock, self._means.timing
        while True:
            await clock.sleep(clock.jitter(timing.verify, _JITTER))
            try:
                await self._look_whether_to_prove(clock.now())
            except SidecarError as error:
                self._unproven = True
                self._means.listener.failed(self.name, VERIFICATION, str(error))
                continue
            if self._unproven:  # reported each time from then on, as the report is dated
                self._means.listener.answered(self.name, VERIFICATION)

    async def _look_whether_to_prove(self, now: float) -> None:
        view, memory = self.view, self.memory
        if view is None or memory is None:
            return
        if retention.wants_verification(memory, view, now, self._means.timing.patience):
            await self._prove(view)

    async def _prove(self, seen: CatalogView) -> None:
        """Take over what a read that can be trusted shows: the same, or more.

        More, if the token was not good before: the watch goes on waiting for a change meanwhile.
        """
        consul = self._means.consul
        answer = await consul.health_service(self._service, consistent=True, dc=self._dc)
        whole = await self._is_whole(answer)
        if whole and answer.known_leader and self.view == seen:
            view, _ = self._look(answer.value)
            self.view = replace(view, verified=True)
            self._news()

    async def _is_whole(self, answer: QueryResult[tuple[ServiceEntry, ...]]) -> bool:
        """Whether nobody who is there can be missing in an answer of the servers.

        Raises:
            Rejected: the token may not see everybody.
        """
        if answer.filtered:
            raise Rejected(missing_rights(self._service))
        if self._dc:  # any entry there can be seen; our own entry proves nothing
            return bool(answer.value) or await self._means.sees_witness(self._dc)
        if not await self._means.consul.sees_all(self._service):
            raise Rejected(missing_rights(self._service))
        return await self._means.sees_witness()

    def _note(self, before: RetentionState, memory: RetentionState) -> None:
        """Remember since when each is as it is, by the clock that people know."""
        wall = self._means.clock.wall()
        known = {instance.id: instance for instance in before.instances}
        for instance in memory.instances:
            if known.get(instance.id) != instance:
                self.changed[instance.id] = wall
        ids = {instance.id for instance in memory.instances}
        self.changed = {name: at for name, at in self.changed.items() if name in ids}
        self.missing = {name: self.missing.get(name, int(wall)) for name in memory.missing}
        self._hearing.summon(each for each in memory.instances if each.id in memory.missing)

    def _tell(self, memory: RetentionState, now: float) -> None:
        listener = self._means.listener
        for name, why in memory.dropped.items():
            listener.dropped(self.name, name, why)
        held = tuple(
            RetainedInstance(name, self.says_it_serves(name)) for name in sorted(memory.missing)
        )
        if held != self._held:
            self._held = held
            listener.held(self.name, held)
