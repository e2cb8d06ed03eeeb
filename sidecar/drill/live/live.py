"""A drill's fault on a live mesh: checked, announced, ordered, and always undone.

    async with live.drill(client, "freeze", Fault.FREEZE, "triton-0", seconds=30.0) as running:
        ...  # the fault is on; `running.over` changes if it ends early

The victim's sidecar undoes the fault when this process orders it, when the lock is lost because
this process was killed, when Consul does not answer, or when the time is over.

Acts: asyncio.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from sidecar.drill.live import announcement, drill_lock, precheck
from sidecar.drill.live.announcement import Outcome
from sidecar.drill.live.drill_lock import uninterrupted
from sidecar.drill.live.precheck import DrillRefused
from sidecar.drill.live.running import DrillAborted, Running
from sidecar.injection.keys import Order
from sidecar.injection.rules import Code, Fault
from sidecar.operator import operator_client
from sidecar.operator.operator_client import OperatorClient
from sidecar.runtime.errors import Unavailable

# Why a fault ended that nothing has cut short: the order, its time, or its nature.
PROPER = frozenset({Code.ENDED.value, Code.TIME_OVER.value, Code.LEFT.value})


@asynccontextmanager
async def drill(
    client: OperatorClient, scenario: str, fault: Fault, victim: str, *, seconds: float
) -> AsyncIterator[Running]:
    """Cause a fault to an instance as long as the context lasts, for at most so many seconds.

    Raises:
        DrillRefused: it may not begin now; nothing was injected, unless the code is UNANSWERED.
        DrillAborted: the end of the fault is not confirmed.
        Unavailable: Consul does not answer.
        Rejected: Consul refuses the token.
    """
    order = Order(client.order_id(), client.by, client.clock.wall(), scenario, victim)
    async with drill_lock.holding(client, order) as held:
        running = Running(client, held)
        watching = asyncio.create_task(running.watch())
        try:
            if why := precheck.refusal(await operator_client.read_status(client), victim, fault):
                raise why
            async with _Announced(client, order, fault, running):
                await running.order(fault, seconds)
                yield running
        finally:
            watching.cancel()


@dataclass(slots=True)
class _Announced:
    """The drill's entry in the history; at the end the fault is undone and the outcome added."""

    client: OperatorClient
    order: Order
    fault: Fault
    running: Running

    async def __aenter__(self) -> None:
        entry = announcement.began(self.order, self.fault)
        await self.client.consul.transact(announcement.write(self.client.service, entry))

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        # Whatever has interrupted the drill, such as Ctrl-C, the fault is undone first.
        await uninterrupted(self._end(error))

    async def _end(self, error: BaseException | None) -> None:
        if isinstance(error, DrillRefused):
            if error.code == Code.UNANSWERED:  # the order may be followed late
                with suppress(Unavailable):
                    await self.running.restore()
            with suppress(Unavailable):  # the refusal says more
                await self._write("refused", error.code)
            return
        try:
            code = await self.running.restore()
        except DrillAborted as aborted:
            with suppress(Unavailable):
                await self._write("aborted", aborted.code)
            raise
        await self._write("aborted" if error or code not in PROPER else "done", code)

    async def _write(self, outcome: Outcome, code: str) -> None:
        entry = announcement.began(self.order, self.fault)
        service, wall = self.client.service, self.client.clock.wall()
        writes = announcement.at_its_end(service, self.order, entry, wall, outcome, str(code))
        await self.client.consul.transact(*writes)
