"""Whether there was one primary at any time, and the notifications said which.

Acts: asyncio, time.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from sidecar.drill.record import Violation
from sidecar.drill.samples import Mark
from sidecar.drill.soak import notifications, tenures
from sidecar.drill.soak.notifications import Received
from sidecar.drill.soak.tenures import Tenure

_DELIVERY: Final = 60.0  # seconds in which the last notification must arrive: two retries
_LOOK: Final = 5.0


async def violations(
    history: Callable[[], Awaitable[Sequence[Tenure]]],
    received: Callable[[], Sequence[Received]],
    primaries: Sequence[Mark],
    published: Sequence[Tenure],
) -> tuple[Violation, ...]:
    """What is wrong, once the last primary was announced or its notification is overdue.

    The role may move at any time, also while this waits. So the last primary is read before
    each look at the notifications, and the history that they are compared with after the last one.

    Args:
        history: reads the history from Consul, which raises what it raises.
        received: all notifications so far.
        primaries: every change of the lock while notifications were received, in order of time.
        published: what control planes and Envoys said.
    """
    ends = time.monotonic() + _DELIVERY
    while True:
        last = _newest(await history(), primaries)
        found = received()
        wrong = tuple(notifications.judged(found, last))
        if not wrong or time.monotonic() >= ends:
            break
        await asyncio.sleep(_LOOK)
    claims = (*notifications.claims(found), *published, *tenures.of_marks(primaries))
    return (*tenures.contradictions(await history(), claims), *wrong)


def _newest(history: Sequence[Tenure], primaries: Sequence[Mark]) -> Tenure | None:
    """The last primary; None if no instance has taken the role since notifications are received."""
    last = max(history, default=None)
    if last is None or not primaries or last.epoch <= primaries[0].epoch:
        return None
    return last
