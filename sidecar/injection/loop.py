"""The loops that follow a service's drills and cause the faults that one orders of this sidecar.

Acts: asyncio.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from sidecar.consul.api import ConsulApi, HoldsLock, KVEntry, QueryResult, Set
from sidecar.consul.blocking_query import Pace, follow
from sidecar.election.keys import lock
from sidecar.events import DrillProgressed, DrillSeen, Hook
from sidecar.health.probes.prober import Loop
from sidecar.injection import decision, keys
from sidecar.injection.decision import (
    Active,
    Decision,
    Facts,
    GatherFacts,
    Idle,
    Inject,
    Refuse,
    Repair,
    Restore,
)
from sidecar.injection.keys import Answer, DrillKeys, Order, Said
from sidecar.injection.rules import OF_SIDECAR, TRITON_FROZEN, Code, Fault, InjectionRules
from sidecar.recovery.decision import Peers
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import Rejected, SidecarError
from sidecar.runtime.latest import Latest, first_of

_WAIT = 60.0  # seconds that Consul may hold a query back,
_WAIT_ORDERED = 3.0  # and while a fault is ordered or on, so that a silent Consul is noticed
_RETRY = 1.0  # seconds until an answer that Consul did not take is written again
_PROPER = frozenset({Code.ENDED, Code.TIME_OVER})  # nothing but the drill has ended its fault
_ANNOUNCED_WITHIN = 2.0  # seconds for notifications, before this process itself is hit


class Caused(Protocol):
    """A fault of `triton_faults.PreparedFault`; every method runs in a thread."""

    async def arm(self, seconds: float) -> None:
        """Start the dead man's switch."""

    async def cause(self) -> None:
        """Cause the fault."""

    async def undo(self) -> None:
        """Undo the fault."""


@dataclass(frozen=True, slots=True)
class InjectorPorts:
    """What the loops read of the other parts of the sidecar, and call.

    `prepare` finds the processes of a fault, `thaw` continues those of Triton. `announced` returns
    when the notifications are delivered.
    """

    passing: Callable[[], bool]
    paused: Callable[[], str]
    others: Callable[[], Awaitable[Peers]]
    prepare: Callable[[Fault], Awaitable[Caused]]
    thaw: Callable[[], Awaitable[None]]
    announced: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Seen:
    keys: DrillKeys
    current: bool


class Injector:
    """Follows the drills of a service on behalf of one instance.

    Args:
        rules: which faults are permitted.
        service: the service.
        instance: this sidecar's instance.
        ports: the other parts of the sidecar.
        consul: the drill's keys.
        clock: measures how long a fault lasts.
        hook: gets the events.
    """

    def __init__(
        self,
        rules: InjectionRules,
        service: str,
        instance: str,
        ports: InjectorPorts,
        consul: ConsulApi,
        clock: Clock,
        hook: Hook,
    ) -> None:
        self._rules = rules
        self._service = service
        self._instance = instance
        self._ports = ports
        self._consul = consul
        self._clock = clock
        self._hook = hook
        self._seen: Latest[_Seen] = Latest(_Seen(DrillKeys(), current=False))
        self._handled = ""
        self._unsaid: Answer | None = None
        self._active: Active | None = None
        self._order: Order | None = None  # of the active fault
        self._caused: Caused | None = None
        self._stopping = False
        self._acting = asyncio.Lock()  # one of the loop and of `stop` acts on a fault
        self._last: float | None = None  # what was reported

    def loops(self) -> dict[str, Loop]:
        """The loops by name; none if no fault is permitted."""
        if not self._rules.allow:
            return {}
        return {"watch drills": self._watch, "inject faults": self._run}

    async def stop(self) -> None:
        """Undo the fault, and cause none any more; one that is being caused ends first."""
        self._stopping = True
        async with self._acting:
            if self._active:
                await self._restore(Code.STOPPING)
        await self._tell()

    async def _watch(self) -> None:
        folder = keys.prefix(self._service)

        def query(index: int) -> Awaitable[QueryResult[tuple[KVEntry, ...]]]:
            wait = _WAIT_ORDERED if self._active or self._ordered else _WAIT
            return self._consul.kv_prefix(folder, index=index, wait=wait)

        await follow(query, self._see, self._lose, self._clock, Pace(1.0, 5.0))

    @property
    def _ordered(self) -> bool:
        """Whether a drill runs whose victim is this instance."""
        order = self._seen.value.keys.running
        return order is not None and order.victim == self._instance

    def _see(self, answer: QueryResult[tuple[KVEntry, ...]]) -> None:
        found = keys.read(self._service, answer.value)
        self._seen.set(_Seen(found, current=True))
        last = found.last.ended if found.last else 0.0
        if last != self._last:
            self._last = last
            self._hook(DrillSeen(last))

    def _lose(self, why: str) -> None:
        self._seen.set(replace(self._seen.value, current=False))

    async def _run(self) -> None:
        """Decide and act, forever; whatever ends this undoes the fault."""
        try:
            while not self._stopping:
                await self._step()
            await asyncio.Event().wait()
        finally:
            if self._caused:
                with suppress(SidecarError):  # the process ends
                    await asyncio.shield(self._caused.undo())

    async def _step(self) -> None:
        seen, retry = self._seen.version, math.inf
        if self._active is None:  # an undo does not wait for Consul
            retry = math.inf if await self._tell() else _RETRY
        decided = self._decide()
        if isinstance(decided, GatherFacts):
            decided = self._decide(await self._ports.others())
        if isinstance(decided, Idle | GatherFacts):
            left = decision.wake_at(self._active) - self._clock.now()
            pause = min(retry, max(0.0, left))
            wait = None if math.isinf(pause) else pause
            told = [self._told()] if self._active and self._unsaid else []
            await first_of(self._clock, wait, self._seen.changed(seen), *told)
            return
        async with self._acting:
            if not self._stopping:
                await self._act(decided)

    async def _act(self, decided: Inject | Refuse | Restore | Repair) -> None:
        match decided:
            case Inject():
                await self._inject(decided)
            case Refuse(order, code, why):
                self._refuse(order, code, why)
            case Restore(code):
                await self._restore(code)
            case Repair(answer):
                await self._repair(answer)

    def _decide(self, others: Peers | None = None) -> Decision:
        return decision.decide(self._facts(others), self._active, self._rules)

    def _facts(self, others: Peers | None) -> Facts:
        seen = self._seen.value
        return Facts(
            instance=self._instance,
            keys=seen.keys,
            current=seen.current,
            handled=self._handled,
            passing=self._ports.passing(),
            paused=self._ports.paused(),
            others=others,
            now=self._clock.now(),
        )

    async def _inject(self, decided: Inject) -> None:
        order = decided.order
        self._handled = order.id
        try:
            self._caused = caused = await self._ports.prepare(decided.fault)
            self._check()
            await self._claim(self._begun(decided, "injecting"))
            self._check()
            self._progress("began", order)
            if decided.fault in OF_SIDECAR:
                await self._announce()
                self._check()
            until = self._clock.now() + decided.seconds
            self._active, self._order = Active(order.id, decided.fault, until), order
            await caused.arm(decided.seconds)
            said = self._begun(decided, "injected")  # now: effects may show before `cause` returns
            if decided.fault in OF_SIDECAR:  # afterwards it could not
                await self._claim(said)
            self._check()
            await caused.cause()
            if decided.fault not in OF_SIDECAR:
                self._unsaid = said
        except SidecarError as error:
            await self._undo()
            self._refuse(order, Code.STOPPING if self._stopping else Code.NOT_INJECTED, str(error))

    def _check(self) -> None:
        """Raise Rejected if the sidecar stops: nothing may be injected any more."""
        if self._stopping:
            raise Rejected("the sidecar stops")

    async def _claim(self, said: Answer) -> None:
        """Write an answer, as long as the drill holds its lock.

        That the fault will be injected, always; of a fault of the sidecar itself also that it was,
        because a sidecar that hits itself could not answer any more. Both come before the fault:
        otherwise it would follow the same order again after its restart.

        Raises:
            SidecarError: the lock is gone, or Consul does not answer: nothing may be injected.
        """
        session = self._seen.value.keys.session or ""
        held = HoldsLock(keys.order_key(self._service), session)
        await self._consul.transact(held, Set(self._key, lock.dumps(said)))

    async def _restore(self, code: Code) -> None:
        order, why = self._order, await self._undo()
        if order is None:
            return
        self._unsaid = self._answer(order.id, "restored", code, why)
        self._progress("ended" if code in _PROPER else "aborted", order, code, why)

    async def _undo(self) -> str:
        """Undo the fault; returns what could not be undone, or ""."""
        caused, why = self._caused, ""
        self._active = self._order = self._caused = None
        if caused:
            try:
                await caused.undo()
            except SidecarError as error:
                why = str(error)
        return why

    async def _repair(self, left: Answer) -> None:
        self._handled, why = left.order, ""
        if left.fault in {each.value for each in TRITON_FROZEN}:
            try:
                await self._ports.thaw()
            except SidecarError as error:
                why = str(error)
        self._unsaid = self._answer(left.order, "restored", Code.LEFT, why)
        order = self._seen.value.keys.order
        if order and order.id == left.order:
            self._progress("ended", order, Code.LEFT, why)

    def _refuse(self, order: Order, code: Code, why: str) -> None:
        self._handled = order.id
        self._unsaid = self._answer(order.id, "refused", code, why)
        self._progress("refused", order, code, why)

    async def _tell(self) -> bool:
        """Write the answer that Consul does not have yet; False if it must be written again."""
        if self._unsaid is None:
            return True
        said = self._unsaid
        try:
            await self._consul.transact(Set(self._key, lock.dumps(said)))
        except SidecarError:  # the client has reported it
            return False
        if self._unsaid is said:
            self._unsaid = None
        return True

    async def _told(self) -> None:
        while not await self._tell():
            await self._clock.sleep(_RETRY)

    async def _announce(self) -> None:
        try:
            await asyncio.wait_for(self._ports.announced(), _ANNOUNCED_WITHIN)
        except TimeoutError:
            return

    @property
    def _key(self) -> str:
        return keys.answer_key(self._service, self._instance)

    def _answer(self, order: str, said: Said, code: str = "", why: str = "") -> Answer:
        return Answer(order, self._instance, said, self._clock.wall(), str(code), why)

    def _begun(self, decided: Inject, said: Said) -> Answer:
        answer = self._answer(decided.order.id, said)
        return replace(answer, seconds=decided.seconds, fault=decided.fault.value)

    def _progress(self, phase: str, order: Order, code: str = "", why: str = "") -> None:
        event = DrillProgressed(phase, order.scenario, order.fault, order.by, str(code), why)
        self._hook(event)
