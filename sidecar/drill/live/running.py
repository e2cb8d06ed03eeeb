"""The fault of a drill, as this side sees it: what the victim's sidecar answers to the orders.

Acts: through what it imports or is given.
"""

from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import replace

from sidecar.consul.api import KVEntry, QueryResult
from sidecar.consul.blocking_query import follow
from sidecar.drill.live.drill_lock import DrillLock
from sidecar.drill.live.precheck import DrillRefused
from sidecar.injection import keys
from sidecar.injection.keys import Answer, Order
from sidecar.injection.rules import OF_SIDECAR, Code, Fault
from sidecar.operator.operator_client import OperatorClient
from sidecar.runtime.errors import Conflict, Refused, Rejected, SidecarError, Unavailable
from sidecar.runtime.latest import Latest, first_of

_ANSWERED_WITHIN = 15.0  # seconds for the victim's sidecar to answer, notifications included
_INJECTED_WITHIN = 5.0  # seconds from its claim until the sidecar hits itself
_RESTORED_WITHIN = 45.0  # and to undo the fault, or to be restarted
_WAIT = 5.0  # seconds that Consul may hold a query back


class DrillAborted(Unavailable):
    """The fault did not begin or end as ordered; `code` says why to programs."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code


class Running:
    """A fault that is on.

    Attributes:
        over: what the victim's sidecar answered when the fault ended, None while it is on.
        lost: why the lock is gone, or empty; then the victim's sidecar ends the fault.
    """

    def __init__(self, client: OperatorClient, held: DrillLock) -> None:
        self.lost = held.lost
        self.over: Latest[Answer | None] = Latest(None)
        self._answered: Latest[Answer | None] = Latest(None)
        self._client = client
        self._held = held
        self._injected = client.clock.now()

    @property
    def seconds(self) -> float:
        """How long the fault lasts at most, as the victim's sidecar answered."""
        return self._answered.value.seconds if self._answered.value else self._held.order.seconds

    @property
    def ago(self) -> float:
        """How many seconds ago the fault was caused, as the victim's sidecar says.

        Its clock may differ from this machine's: the fault was caused after it was ordered, and
        before that was answered.
        """
        return self._client.clock.now() - self._injected

    async def watch(self) -> None:
        """Follow the victim's answers, forever."""
        folder, consul = keys.prefix(self._client.service), self._client.consul

        def query(index: int) -> Awaitable[QueryResult[tuple[KVEntry, ...]]]:
            return consul.kv_prefix(folder, index=index, wait=_WAIT)

        await follow(query, self._see, lambda _: None, self._client.clock)

    def _see(self, answer: QueryResult[tuple[KVEntry, ...]]) -> None:
        order = self._held.order
        said = keys.read(self._client.service, answer.value).answer_of(order.victim, order.id)
        if said is None or (said.said == "injecting" and order.fault not in OF_SIDECAR):
            return
        begun = self._answered.value is not None and self._answered.value.said in keys.BEGUN
        if said.said == "restored" or (said.said == "refused" and begun):
            self.over.set(said)
        else:
            self._answered.set(said)

    async def order(self, fault: Fault, seconds: float) -> None:
        """Order the fault and wait until it is injected.

        Raises:
            DrillRefused: the victim's sidecar refuses, or does not answer; or the order was not
                written, because the lock is lost, or Consul refuses.
            Unavailable: Consul does not answer; the order may be written.
        """
        order, clock = self._held.order, self._client.clock
        self._injected = ordered = clock.now()
        await self._write(replace(order, fault=fault.value, seconds=seconds))
        said = await self._said()
        if said is None:
            why = self.lost.value or f"the sidecar of {order.victim} has not answered"
            raise DrillRefused(Code.UNANSWERED, why)
        if said.said == "refused":
            raise DrillRefused(said.code, f"the sidecar of {order.victim} refuses: {said.why}")
        if said.said in keys.BEGUN:
            self._injected = caused_at(said.at, ordered, clock.now(), clock.wall())

    async def _said(self) -> Answer | None:
        """What the victim's sidecar answers: that the fault is on, or over, or refused."""
        await self._news(_ANSWERED_WITHIN, 0)
        if self._answered.value and self._answered.value.said == "injecting":  # it hits itself
            await self._news(_INJECTED_WITHIN, self._answered.version)
        if self.over.value and self.over.value.said == "refused":
            return self.over.value
        return self._answered.value or self.over.value

    async def _news(self, seconds: float, version: int) -> None:
        """Wait for an answer newer than a version, or the end of the fault or the lock."""
        news = (self._answered.changed(version), self.over.changed(0), self.lost.changed(0))
        await first_of(self._client.clock, seconds, *news)

    async def _write(self, order: Order) -> None:
        try:
            await self._held.write(order)
        except Conflict as error:
            raise DrillRefused(Code.LOCK_LOST, f"the lock is lost: {error}") from error
        except Rejected as error:
            raise DrillRefused(Code.NOT_INJECTED, str(error)) from error
        except Refused as error:
            raise DrillRefused(Code.CONSUL_LOST, str(error)) from error

    async def restore(self) -> str:
        """Order the end of the fault and wait until it is undone; returns the code.

        Raises:
            DrillAborted: the victim's sidecar has not confirmed it, and it ends in time all the
                same; or the sidecar could not undo all of it.
        """
        order = self._held.order
        with suppress(SidecarError):  # then it ends with the lock
            await self._held.write(replace(order, fault=""))
        await first_of(self._client.clock, _RESTORED_WITHIN, self.over.changed(0))
        if self.over.value is None:
            raise DrillAborted(
                Code.UNANSWERED,
                f"the sidecar of {order.victim} has not confirmed that the fault is undone; it ends"
                f" {self.seconds:g} s after its beginning at the latest",
            )
        if self.over.value.said == "restored" and self.over.value.why:
            why = f"the sidecar of {order.victim}: {self.over.value.why}"
            raise DrillAborted(Code.NOT_UNDONE, why)
        return self.over.value.code


def caused_at(said: float, ordered: float, now: float, wall: float) -> float:
    """When a fault was caused, in the monotonic seconds of this machine.

    Args:
        said: the same by the clock of the victim's sidecar (Unix seconds), which may differ.
        ordered: when it was ordered: it cannot have been caused before.
        now: the time: it has been caused by now.
        wall: the same in Unix seconds.
    """
    return max(ordered, now - max(0.0, wall - said))
