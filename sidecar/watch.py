"""Following something in Consul by blocking queries: the one loop with the rules for indexes."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from sidecar.clock import Clock
from sidecar.consul_api import Answer, next_index
from sidecar.errors import SidecarError

T = TypeVar("T")

_JITTER = 0.5  # many watches that failed together must not ask in step


async def follow(
    query: Callable[[int], Awaitable[Answer[T]]],
    see: Callable[[Answer[T]], Awaitable[None] | None],
    failed: Callable[[str], None],
    clock: Clock,
    retry: float = 1.0,
) -> None:
    """Show `see` every answer, for ever.

    Args:
        query: asks from an index on, and blocks until there is news; from 0 it answers at once.
        see: takes an answer that means something; a `SidecarError` of it counts as a failure.
        failed: told why nothing was learnt. The next attempt follows after a pause.
        clock: tells how long a pause is.
        retry: the pause in seconds, give or take.
    """
    index = 0
    while True:
        try:
            answer = await query(index)
            if answer.known_leader:
                if (seeing := see(answer)) is not None:
                    await seeing
                index = next_index(index, answer.index)
                continue
            failed("Consul's servers have no leader")
        except SidecarError as error:
            failed(str(error))
            # The agent may be another one now, whose indexes begin anew.
            index = 0
        await clock.sleep(clock.jitter(retry, _JITTER))
