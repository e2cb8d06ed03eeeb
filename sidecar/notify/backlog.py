"""The policy for changes that wait for delivery: which is dropped, and when to retry. Pure.

The newest change of each subject is never dropped: a target that returns after a long outage gets
the present state.
"""

from collections.abc import Sequence
from enum import Enum

from sidecar.notify.documents import Change

LIMIT = 16  # waiting changes; more than there are subjects
_FIRST = 1.0  # seconds before a second attempt
_LONGEST = 30.0


class Next(Enum):
    """What to do with a change that could not be delivered."""

    AGAIN = "after a pause"
    LAST = "after all the others"
    NEVER = "superseded by a newer change"


def put(
    waiting: Sequence[Change], change: Change, limit: int = LIMIT
) -> tuple[tuple[Change, ...], Change | None]:
    """The waiting changes after adding one, and the change dropped to make room for it."""
    now = (*waiting, change)
    if len(now) <= limit:
        return now, None
    drop = next(each for index, each in enumerate(now) if outdated(now[index + 1 :], each))
    return tuple(each for each in now if each is not drop), drop


def outdated(later: Sequence[Change], change: Change) -> bool:
    """Whether a later change of the same subject supersedes this one."""
    return any(each.subject is change.subject for each in later)


def after_failure(waiting: Sequence[Change], change: Change, attempts: int, retries: int) -> Next:
    """What to do with a change that could not be delivered `attempts` times.

    The newest of its subject is never dropped, but lets the others go first.
    """
    if attempts <= retries or not waiting:
        return Next.AGAIN
    return Next.NEVER if outdated(waiting, change) else Next.LAST


def pause(attempts: int) -> float:
    """Seconds before the next attempt, after so many attempts; it doubles with each."""
    return float(min(_FIRST * 2 ** min(attempts - 1, 10), _LONGEST))
