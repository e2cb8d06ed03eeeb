"""Following something in Consul by blocking queries: the one loop with the rules for indexes."""

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from sidecar.bucket import Bucket
from sidecar.clock import Clock
from sidecar.consul_api import Answer, next_index
from sidecar.errors import SidecarError

T = TypeVar("T")

_JITTER = 0.5  # many watches that failed together must not ask in step
# Answers that come at once again and again, as without an index, must not make the loop spin: after
# so many within so many seconds each waits this long.
_MANY, _WITHIN, _BREATH = 10, 0.5, 0.05
# Retries a second, and at once, of all watches that share a budget. Those of up to fifty services
# are slower than that by their own pauses. Far below it, many would be late once Consul is back.
_RETRIES, _AT_ONCE = 10.0, 20.0


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds, give or take.

    `retry` is the pause after a failure. It doubles with each further one, up to `longest`, so that
    a fleet of watches leaves a Consul alone that is down. After `resync` the question is asked as
    if nothing were known: whatever was lost on the way is made good then. None: never.
    """

    retry: float = 1.0
    longest: float = 1.0
    resync: float | None = None

    @property
    def longest_pause(self) -> float:
        """The longest that a pause can be."""
        return max(self.longest, self.retry) * (1 + _JITTER)


class RetryBudget:
    """What watches may spend together on asking again after a failure."""

    def __init__(self) -> None:
        self._bucket = Bucket(_RETRIES, _AT_ONCE, level=_AT_ONCE)

    def spend(self, now: float) -> float:
        """Take a retry; gives the seconds until it may be used. First come, first served."""
        pause = self._bucket.pause(now)
        self._bucket = self._bucket.take(now)
        return pause


async def follow(
    query: Callable[[int], Awaitable[Answer[T]]],
    see: Callable[[Answer[T]], Awaitable[None] | None],
    failed: Callable[[str], None],
    clock: Clock,
    retry: float | Pace = 1.0,
    budget: RetryBudget | None = None,
) -> None:
    """Show `see` every answer, for ever.

    Args:
        query: asks from an index on, and blocks until there is news; from 0 it answers at once.
        see: takes an answer that means something; a `SidecarError` of it counts as a failure.
        failed: told why nothing was learnt. The next attempt follows after a pause.
        clock: tells how long a pause is.
        retry: the pause in seconds, give or take; or more about it.
        budget: what it shares with other watches; its pause may be longer.
    """
    pace = retry if isinstance(retry, Pace) else Pace(retry, retry)
    index, pause, synced = 0, pace.retry, clock.now()
    resync = _resync(pace, clock)
    answered: deque[float] = deque(maxlen=_MANY)
    while True:
        if index and resync is not None and clock.now() >= synced + resync:
            index = 0
        if not index:
            synced, resync = clock.now(), _resync(pace, clock)
        try:
            answer = await query(index)
            if answer.known_leader:
                if (seeing := see(answer)) is not None:
                    await seeing
                index, pause = next_index(index, answer.index), pace.retry
                answered.append(clock.now())
                if len(answered) == _MANY and clock.now() < answered[0] + _WITHIN:
                    await clock.sleep(_BREATH)
                continue
            failed("Consul's servers have no leader")
        except SidecarError as error:
            failed(str(error))
            # The agent may be another one now, whose indexes begin anew.
            index = 0
        await clock.sleep(
            max(clock.jitter(pause, _JITTER), budget.spend(clock.now()) if budget else 0.0)
        )
        pause = min(2 * pause, max(pace.longest, pace.retry))


def _resync(pace: Pace, clock: Clock) -> float | None:
    return None if pace.resync is None else clock.jitter(pace.resync, _JITTER)
