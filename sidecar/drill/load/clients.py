"""The clients of a load: when each request is sent, and the sample that comes of it.

Acts: asyncio, time.
"""

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field

from sidecar.drill.load.messages import Counts
from sidecar.drill.load.pulse import Pulse
from sidecar.drill.load.questions import DEADLINE, Client, Questions, Reply
from sidecar.drill.load.schedule import due_times
from sidecar.drill.load.spec import ClosedLoop, LoadSpec, OpenLoop
from sidecar.drill.samples import Kind, Sample

_REFUSED = 0.05  # seconds; a client does not hammer after a failure


@dataclass(slots=True)
class Sent:
    """The samples that were not reported yet, and the counts of a running load."""

    samples: list[Sample] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)


class Clients:
    """The clients of one load.

    Args:
        spec: which load.
        questions: what is asked.
        address: host:port that the clients connect to.
        began: when the drill began, on the monotonic clock.
        seed: determines the schedule.
        sent: what is added to as requests end.
    """

    def __init__(
        self,
        spec: LoadSpec,
        questions: Questions,
        address: str,
        *,
        began: float,
        seed: int,
        sent: Sent,
    ) -> None:
        self._spec, self._questions, self._address = spec, questions, address
        self._began, self._seed, self._sent = began, seed, sent
        self._ending = asyncio.Event()
        self._pulse = Pulse()

    def end(self) -> None:
        """Send no further requests; those in flight are finished."""
        self._ending.set()

    async def run(self) -> None:
        """Send until `end`, and until every request has ended."""
        unary = self._spec.clients if isinstance(self._spec, ClosedLoop) else self._spec.connections
        pause = self._spec.pause if isinstance(self._spec, ClosedLoop) else 0.0
        beating = asyncio.create_task(self._pulse.beat())
        try:
            await self._all(unary, pause)
        finally:
            beating.cancel()

    async def _all(self, unary: int, pause: float) -> None:
        async with asyncio.TaskGroup() as group:
            if isinstance(self._spec, OpenLoop):
                group.create_task(self._open(self._spec))
            else:
                for number in range(unary):
                    group.create_task(self._closed("unary", number, pause))
            for number in range(self._spec.streams):
                group.create_task(self._closed("stream", unary + number, pause))

    async def _closed(self, kind: Kind, number: int, pause: float) -> None:
        turn = number
        async with self._questions.connect(self._address) as client:
            while not self._ending.is_set():
                due = self._now()
                self._starts()
                reply = await client.ask(kind, turn)
                self._ended(kind, number, due, due, reply)
                turn += 1
                await self._waits(max(pause, _REFUSED if reply.outcome == "failed" else 0.0))

    async def _open(self, spec: OpenLoop) -> None:
        room = asyncio.Semaphore(spec.in_flight)
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(self._questions.connect(self._address))
                for _ in range(spec.connections)
            ]
            start = self._now()
            async with asyncio.TaskGroup() as group:
                for turn, after in enumerate(due_times(spec.rate, spec.schedule, self._seed)):
                    due = start + after
                    await self._waits(due - self._now())
                    if self._ending.is_set():
                        break
                    number = turn % spec.connections
                    group.create_task(self._one(clients[number], number, turn, due, room))

    async def _one(
        self, client: Client, number: int, turn: int, due: float, room: asyncio.Semaphore
    ) -> None:
        """Send one request of an open loop as soon as there is room."""
        counts, began = self._sent.counts, self._now()
        counts.lag = max(counts.lag, began - due)
        counts.held += room.locked()
        try:
            async with asyncio.timeout(DEADLINE):
                await room.acquire()
        except TimeoutError:
            full = f"not sent for {DEADLINE:g} s: {counts.in_flight} requests were in flight"
            self._sent.samples.append(
                self._sample("unary", number, due, began, Reply("failed", detail=full))
            )
            return
        try:
            self._starts()
            self._ended("unary", number, due, began, await client.ask("unary", turn))
        finally:
            room.release()

    def _starts(self) -> None:
        counts = self._sent.counts
        counts.in_flight += 1
        counts.most_in_flight = max(counts.most_in_flight, counts.in_flight)

    def _ended(self, kind: Kind, number: int, due: float, began: float, reply: Reply) -> None:
        self._sent.counts.in_flight -= 1
        self._sent.samples.append(self._sample(kind, number, due, began, reply))

    def _sample(self, kind: Kind, number: int, due: float, began: float, reply: Reply) -> Sample:
        """The sample of a request that ended now; `began` is when the schedule came to it."""
        late = max(0.0, began - due) + self._pulse.stalled(self._began + began)
        return Sample(
            kind,
            number,
            due,
            self._now() - due,
            reply.outcome,
            reply.instance,
            reply.detail,
            reply.began_on,
            round(late, 6),
        )

    def _now(self) -> float:
        return time.monotonic() - self._began

    async def _waits(self, seconds: float) -> None:
        """Wait, at most until the load ends; at least once for other tasks."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ending.wait()
