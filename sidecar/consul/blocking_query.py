"""Following something in Consul by blocking queries: the one loop with the rules for indexes."""

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

_JITTER = 0.5  # many watches that failed together must not ask in step
# Answers that come at once again and again, as without an index, must not make the loop spin: after
# so many within so many seconds each waits this long.
_MANY, _WITHIN, _BREATH = 10, 0.5, 0.05
# Retries a second, and at once, of all watches that share a budget.
_BUDGET = TokenBucket(rate=10.0, burst=20.0, level=20.0)
_SOON = 0.5  # seconds, give or take, until a watch asks that has heard of another's answer


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds, give or take.

    `retry` is the pause after a failure. It doubles with each further one, up to `longest`, so that
    a fleet of watches leaves a Consul alone that is down. After `resync` the question is asked as
    if nothing were known: whatever was lost on the way is made good then. None: never. After
    `confirm` at the latest that is done too where answers are streamed: the agent goes on
    streaming what it heard last while the servers are gone.
    """

    retry: float = 1.0
    longest: float = 1.0
    resync: float | None = None
    confirm: float = 15.0

    @property
    def longest_pause(self) -> float:
        """The longest that a pause can be."""
        return max(self.longest, self.retry) * (1 + _JITTER)


class RetryBudget:
    """What watches may spend together on asking again after a failure.

    Those of a hundred services would keep a Consul busy that is hardly up. Each waits its turn
    therefore, and hears of it when another one, which had failed as well, is answered.
    """

    def __init__(self) -> None:
        self._bucket = _BUDGET
        self._recoveries = Latest(0)

    async def wait(self, pause: float, longest: float, clock: Clock) -> None:
        """Return when it is time to ask again: after `pause` seconds, or up to `longest`."""
        now, seen = clock.now(), self._recoveries.version
        turn = min(self._bucket.pause(now), longest)
        self._bucket = self._bucket.take(now)
        await first_of(clock, max(pause, turn), self._recoveries.changed(seen))
        if self._recoveries.version != seen:
            await clock.sleep(min(pause, clock.jitter(_SOON, 1.0)))

    def recovered(self) -> None:
        """A watch that had failed was answered. One that fails after that starts from scratch."""
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
    """Show `see` every answer, for ever, but for those that are older than what it has seen.

    Args:
        query: asks from an index on, and blocks until there is news; from 0 it answers at once.
        see: takes an answer that means something; a `SidecarError` of it counts as a failure.
        failed: told why nothing was learnt. The next attempt follows after a pause.
        clock: tells how long a pause is.
        retry: the pause in seconds, give or take; or more about it.
        budget: what it shares with other watches.
    """
    pace = retry if isinstance(retry, Pace) else Pace(retry, retry)
    budget = budget or RetryBudget()  # of its own
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
    """From which index to ask, and when to ask as if nothing were known, which is index 0."""

    def __init__(self, pace: Pace, clock: Clock) -> None:
        self._pace = pace
        self._clock = clock
        self._index = 0
        self._began = 0.0  # when (monotonic seconds) the last question from 0 was asked
        self._due = math.inf  # when (monotonic seconds) to begin anew

    def next(self) -> int:
        """The index for the next question."""
        now = self._clock.now()
        if now >= self._due:
            self._index = 0
        if not self._index:
            resync = self._pace.resync
            self._began = now
            self._due = math.inf if resync is None else now + self._clock.jitter(resync, _JITTER)
        return self._index

    def is_past(self, answer: QueryResult[T]) -> bool:
        """Whether what is streamed is older than what is known.

        The agent has lost touch with the servers, or not caught up with them yet. An answer of the
        servers themselves is never past: a lower index means that they have lost their history.
        """
        return answer.streamed and answer.index < self._index

    def take(self, answer: QueryResult[T]) -> None:
        """Go on from an answer."""
        if answer.streamed:
            self._due = min(self._due, self._began + self._pace.confirm)
        self._index = next_index(self._index, answer.index)

    def reset(self) -> None:
        """Begin anew.

        The agent may be another one now, whose indexes start over; and what it streams does not
        tell that its servers are still gone.
        """
        self._index = 0
