"""Blocking queries: the one loop that follows something in Consul, with the rules for indexes.

Acts: through what it imports or is given.
"""

import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from sidecar.consul.api import QueryResult, next_index
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import SidecarError
from sidecar.runtime.latest import Latest, first_of
from sidecar.runtime.token_bucket import TokenBucket

T = TypeVar("T")

_JITTER = 0.5  # watches that failed together must not retry in step
# A server that never blocks must not make the loop spin: after so many answers within so many
# seconds, each further one is followed by this pause.
_MANY, _WITHIN, _BREATH = 10, 0.5, 0.05
# Retries a second, and in a burst, of all watches that share a budget.
_BUDGET = TokenBucket(rate=10.0, burst=20.0, level=20.0)
_SOON = 0.5  # seconds, with jitter, until a watch retries after another one recovered


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a watch queries. Seconds, with jitter.

    `retry` is the pause after a failure. It doubles with each further one, up to `longest`, so that
    a fleet of watches does not hammer a Consul that is down. After `resync` the query starts over
    from index 0, which makes up for anything that was missed; None: never. Streamed results are
    confirmed like that after `confirm` at the latest, because the agent keeps streaming its last
    state while the servers are gone.
    """

    retry: float = 1.0
    longest: float = 1.0
    resync: float | None = None
    confirm: float = 15.0

    @property
    def longest_pause(self) -> float:
        """The longest possible pause."""
        return max(self.longest, self.retry) * (1 + _JITTER)


class RetryBudget:
    """The retries that watches share after failures.

    The watches of a hundred services could overload a Consul that is just recovering. So each
    waits its turn, and retries early when another failed watch is answered.
    """

    def __init__(self) -> None:
        self._bucket = _BUDGET
        self._recoveries = Latest(0)

    async def wait(self, pause: float, longest: float, clock: Clock) -> None:
        """Return when it is time to retry: after `pause` seconds, or up to `longest`."""
        now, seen = clock.now(), self._recoveries.version
        turn = min(self._bucket.pause(now), longest)
        self._bucket = self._bucket.take(now)
        await first_of(clock, max(pause, turn), self._recoveries.changed(seen))
        if self._recoveries.version != seen:
            await clock.sleep(min(pause, clock.jitter(_SOON, 1.0)))

    def recovered(self) -> None:
        """Note that a failed watch was answered; refills the budget and wakes the others."""
        self._bucket = _BUDGET
        self._recoveries.set(self._recoveries.value + 1)


async def follow(
    query: Callable[[int], Awaitable[QueryResult[T]]],
    see: Callable[[QueryResult[T]], Awaitable[None] | None],
    failed: Callable[[str], None],
    clock: Clock,
    retry: float | Pace = 1.0,
    budget: RetryBudget | None = None,
) -> None:
    """Pass every answer to `see`, forever, except for those older than the last one.

    Args:
        query: queries from an index, and blocks until something changes; with 0 it returns at once.
        see: handles a usable answer; a `SidecarError` that it raises counts as a failure.
        failed: called with the reason of each failure. The next attempt follows after a pause.
        clock: measures the pauses.
        retry: the pause in seconds, with jitter; or a whole `Pace`.
        budget: the retry budget that it shares with other watches; without one, its own.
    """
    pace = retry if isinstance(retry, Pace) else Pace(retry, retry)
    budget = budget or RetryBudget()
    cursor, pause, failing = _Cursor(pace, clock), pace.retry, False
    answered: deque[float] = deque(maxlen=_MANY)
    while True:
        try:
            answer = await query(cursor.next())
            if answer.known_leader or answer.streamed:
                if not cursor.is_past(answer) and (seeing := see(answer)) is not None:
                    await seeing
                cursor.take(answer)
                pause = pace.retry
                if failing:
                    failing = False
                    budget.recovered()
                answered.append(clock.now())
                if len(answered) == _MANY and clock.now() < answered[0] + _WITHIN:
                    await clock.sleep(_BREATH)
                continue
            failed("Consul's servers have no leader")
        except SidecarError as error:
            failed(str(error))
        cursor.reset()
        await budget.wait(clock.jitter(pause, _JITTER), pace.longest_pause, clock)
        failing, pause = True, min(2 * pause, max(pace.longest, pace.retry))


class _Cursor:
    """The index to query from, and when to start over from 0."""

    def __init__(self, pace: Pace, clock: Clock) -> None:
        self._pace = pace
        self._clock = clock
        self._index = 0
        self._began = 0.0  # when (monotonic seconds) the last query from 0 was sent
        self._due = math.inf  # when (monotonic seconds) to start over

    def next(self) -> int:
        """The index for the next query."""
        now = self._clock.now()
        if now >= self._due:
            self._index = 0
        if not self._index:
            resync = self._pace.resync
            self._began = now
            self._due = math.inf if resync is None else now + self._clock.jitter(resync, _JITTER)
        return self._index

    def is_past(self, answer: QueryResult[T]) -> bool:
        """Whether a streamed answer is older than the last one.

        Then the agent has lost the servers, or not caught up with them yet. An answer from the
        servers is never past: a lower index means that they lost their history.
        """
        return answer.streamed and answer.index < self._index

    def take(self, answer: QueryResult[T]) -> None:
        """Continue from an answer."""
        if answer.streamed:
            self._due = min(self._due, self._began + self._pace.confirm)
        self._index = next_index(self._index, answer.index)

    def reset(self) -> None:
        """Start over from 0.

        There may be a different agent now, with different indexes; and a streamed answer does not
        show whether the servers are still gone.
        """
        self._index = 0
