"""The watch of one service's instances in one datacenter, which retains those that vanish.

Acts: asyncio.
"""

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
_SERVERS = "consul"  # the service under which Consul's servers register themselves
_JITTER = 0.2
# Seconds after a failure during which an agent may still stream outdated data: its pauses between
# attempts to resubscribe grow to two minutes, and an attempt takes a while.
_DISTRUST = 150.0
_PACE = Pace(retry=1.0, longest=15.0, resync=300.0)
_PATIENCE = RetentionRules()


@dataclass(frozen=True, slots=True)
class WatchTiming:
    """Seconds."""

    # How long a query blocks: short enough to notice a connection that was lost silently.
    wait: float = 30.0
    # Pauses while Consul does not answer or has no leader; and after how long to query as if
    # nothing were known, so that a lost wake-up costs no more than that.
    pace: Pace = _PACE
    # Changes this close together are published as one: a role swap wakes two watches.
    settle: float = 0.005
    # How long a first answer waits for those of the other watches, if there is an older complete
    # state.
    together: float = 2.0
    # How long the first catalog waits for a service that Consul refuses to show: two more attempts,
    # as a token created a moment ago may not have arrived everywhere.
    refused: float = 5.0
    # How often to check whether a view needs verification.
    verify: float = 5.0
    retention_rules: RetentionRules = _PATIENCE


@dataclass(frozen=True, slots=True)
class RetainedInstance:
    """An instance that Consul no longer shows, and whether it reports that it serves."""

    id: str
    serves: bool = False


class WatchListener(Protocol):
    """Gets the watches' events, for metrics and logs.

    `what` is the watch: instances, lock or policy; a verification is a separate read that has to
    prove what a watch shows. A service in another datacenter is named `service@datacenter`.
    """

    def answered(self, service: str, what: str) -> None:
        """Consul's servers have answered; the known state is current."""

    def failed(self, service: str, what: str, why: str) -> None:
        """A query failed; the known state stays."""

    def skipped(self, service: str, found: tuple[SkippedEntry, ...]) -> None:
        """Entries that cannot be used; called when they change."""

    def retained(self, service: str, found: tuple[RetainedInstance, ...]) -> None:
        """Instances retained though Consul does not show them; called when they change."""

    def dropped(self, service: str, instance: str, why: str) -> None:
        """A retained instance was dropped."""

    def policy_refused(self, service: str, why: str) -> None:
        """The policy in Consul is invalid, and the last valid one stays; "" if it is valid."""

    def unconfirmed(self, service: str, stale: bool) -> None:
        """Whether what is published of the service was read from disk."""

    def ended(self, service: str) -> None:
        """It is no longer watched."""


@dataclass(frozen=True, slots=True)
class WatchContext:
    """What all watches share.

    `witness` is a service that is certainly registered: our own.
    """

    consul: ConsulApi
    clock: Clock
    listener: WatchListener
    witness: str
    timing: WatchTiming = WatchTiming()
    ask: Ask = ask
    budget: RetryBudget = field(default_factory=RetryBudget)

    async def sees_witness(self, dc: str = "") -> bool:
        """Whether Consul's servers, here or in another datacenter, show us what must be there.

        Consul answers a bad token, or a catalog that is still being filled, with an empty list.
        """
        witness = _SERVERS if dc else self.witness
        answer = await self.consul.health_service(witness, consistent=True, dc=dc)
        return answer.known_leader and bool(answer.value)


@contextmanager
def recording_refusal(refused: Callable[[bool], None]) -> Iterator[None]:
    """Report whether a failed query to Consul was refused: then it will fail again."""
    try:
        yield
    except SidecarError as error:
        refused(isinstance(error, Rejected))
        raise


@dataclass(frozen=True, slots=True)
class CachedInstances:
    """The instances restored at the start, and which are `missing` since when (Unix seconds)."""

    instances: tuple[Instance, ...] = ()
    missing: Mapping[str, int] = field(default_factory=dict)


class InstanceWatch:
    """The instances of a service, retained ones included. `view` is None until Consul has answered.

    Those of another datacenter carry its name, also in their ids: the same id there is another
    instance. `news` is called when `retain` may have a new result.
    """

    def __init__(
        self,
        service: str,
        dc: str,
        context: WatchContext,
        news: Callable[[], None],
        cached: CachedInstances | None = None,
    ) -> None:
        self.name = f"{service}@{dc}" if dc else service
        self.view: CatalogView | None = None
        self.refused = False  # whether Consul's last answer was a refusal
        self.state: RetentionState | None = None
        self.skipped: tuple[SkippedEntry, ...] = ()
        # By id: since when (Unix seconds) it is missing, and when it last changed.
        self.missing: Mapping[str, int] = {}
        self.changed: dict[str, float] = {}
        self._service, self._dc = service, dc
        self._context = context
        self._news = news
        self._queries = HealthQueries(context.ask, context.clock, news)
        self._retained: tuple[RetainedInstance, ...] = ()
        self._reader = EntryReader()
        self._verification_failed = False  # whether a verification ever failed
        self._no_streaming_until = -math.inf  # monotonic seconds
        if cached is not None:
            self._restore(cached)

    async def run(self) -> None:
        """Watch until cancelled."""
        context = self._context
        async with asyncio.TaskGroup() as tasks:
            clock, pace, budget = context.clock, context.timing.pace, context.budget
            tasks.create_task(
                follow(self._ask, self._on_answer, self._on_failure, clock, pace, budget)
            )
            tasks.create_task(self._queries.run())
            tasks.create_task(self._verify())

    def retain(self, now: float) -> RetentionState | None:
        """The current state, retained instances included; None while nothing is known."""
        if self.view is None:
            return self.state
        before = self.state or RetentionState(since=now)
        rules = self._context.timing.retention_rules
        state = retention.retain(before, self.view, self._queries.reports, now, rules)
        self.state = state
        if state != before:
            self._record_changes(before, state)
        self._report(state, now)
        return state

    def deadline(self, now: float) -> float | None:
        """When (monotonic seconds) to call `retain` again even without news."""
        if self.view is None or self.state is None:
            return None
        rules = self._context.timing.retention_rules
        return retention.next_deadline(self.state, self._queries.reports, now, rules)

    def says_it_serves(self, instance: str) -> bool:
        """Whether a missing instance's last report says that it serves."""
        report = self._queries.reports.get(instance)
        return report is not None and report.alive is not None and not report.gone

    def _restore(self, cached: CachedInstances) -> None:
        clock = self._context.clock
        now, wall = clock.now(), clock.wall()
        since = {name: now - max(0.0, wall - at) for name, at in cached.missing.items()}
        self.state = RetentionState(now, cached.instances, since, settled=True)
        self.missing = dict(cached.missing)
        self._queries.set_missing(each for each in cached.instances if each.id in since)

    async def _ask(self, index: int) -> QueryResult[tuple[ServiceEntry, ...]]:
        with recording_refusal(self._set_refused):
            answer = await self._context.consul.health_service(
                self._service,
                index=index,
                wait=self._context.timing.wait,
                consistent=index == 0,
                dc=self._dc,
                streamed=self._context.clock.now() >= self._no_streaming_until,
            )
        if answer.streamed and answer.index < index:
            self._distrust()
        return answer

    def _set_refused(self, refused: bool) -> None:
        if refused != self.refused:
            self.refused = refused
            self._news()

    def _on_answer(self, answer: QueryResult[tuple[ServiceEntry, ...]]) -> None:
        self._set_refused(False)
        view, skipped = self._read_view(answer.value)
        view = replace(view, doubtful=answer.streamed or answer.filtered)
        if skipped != self.skipped:
            self.skipped = skipped
            self._context.listener.skipped(self.name, skipped)
        if view.adds_to(self.view):
            self.view = view
            self._news()
        if not answer.streamed:  # a streamed answer does not come from the servers
            self._context.listener.answered(self.name, INSTANCES)

    def _on_failure(self, why: str) -> None:
        self._distrust()
        self._context.listener.failed(self.name, INSTANCES, why)

    def _distrust(self) -> None:
        self._no_streaming_until = self._context.clock.now() + _DISTRUST

    def _read_view(
        self, entries: tuple[ServiceEntry, ...]
    ) -> tuple[CatalogView, tuple[SkippedEntry, ...]]:
        instances, skipped = self._reader.read(entries)
        ids = {instance.id for instance in instances}
        missed = any(found.may_serve and found.id not in ids for found in skipped)
        if self._dc:
            dc = self._dc
            instances = tuple(
                replace(each, id=f"{dc}/{each.id}", datacenter=dc) for each in instances
            )
        return CatalogView(instances, complete=not missed), skipped

    async def _verify(self) -> None:
        """Runs apart from publishing, which must not wait for Consul."""
        clock, timing = self._context.clock, self._context.timing
        while True:
            await clock.sleep(clock.jitter(timing.verify, _JITTER))
            try:
                await self._verify_if_needed(clock.now())
            except SidecarError as error:
                self._verification_failed = True
                self._context.listener.failed(self.name, VERIFICATION, str(error))
                continue
            if self._verification_failed:  # from then on every time, as the metric is a time
                self._context.listener.answered(self.name, VERIFICATION)

    async def _verify_if_needed(self, now: float) -> None:
        view, state = self.view, self.state
        if view is None or state is None:
            return
        if retention.wants_verification(state, view, now, self._context.timing.retention_rules):
            await self._verify_view(view)

    async def _verify_view(self, unverified: CatalogView) -> None:
        """Replace the view by a trustworthy read: it shows the same, or more.

        More if the token was insufficient before, as the watch is still blocked on its old answer.
        """
        consul = self._context.consul
        answer = await consul.health_service(self._service, consistent=True, dc=self._dc)
        whole = await self._is_whole(answer)
        if whole and answer.known_leader and self.view == unverified:
            view, _ = self._read_view(answer.value)
            self.view = replace(view, verified=True)
            self._news()

    async def _is_whole(self, answer: QueryResult[tuple[ServiceEntry, ...]]) -> bool:
        """Whether an answer of the servers certainly lacks no instance.

        Raises:
            Rejected: the token may not see all of them.
        """
        if answer.filtered:
            raise Rejected(missing_rights(self._service))
        if self._dc:  # any entry there is proof; our own entry proves nothing about it
            return bool(answer.value) or await self._context.sees_witness(self._dc)
        if not await self._context.consul.sees_all(self._service):
            raise Rejected(missing_rights(self._service))
        return await self._context.sees_witness()

    def _record_changes(self, before: RetentionState, state: RetentionState) -> None:
        """Record in wall-clock time when each instance last changed."""
        wall = self._context.clock.wall()
        known = {instance.id: instance for instance in before.instances}
        for instance in state.instances:
            if known.get(instance.id) != instance:
                self.changed[instance.id] = wall
        ids = {instance.id for instance in state.instances}
        self.changed = {name: at for name, at in self.changed.items() if name in ids}
        self.missing = {name: self.missing.get(name, int(wall)) for name in state.missing}
        self._queries.set_missing(each for each in state.instances if each.id in state.missing)

    def _report(self, state: RetentionState, now: float) -> None:
        listener = self._context.listener
        for name, why in state.dropped.items():
            listener.dropped(self.name, name, why)
        retained = tuple(
            RetainedInstance(name, self.says_it_serves(name)) for name in sorted(state.missing)
        )
        if retained != self._retained:
            self._retained = retained
            listener.retained(self.name, retained)
