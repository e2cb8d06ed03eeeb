"""A process's lifecycle with one loop, whose reloads have the outcomes that a test gives."""

import asyncio
from collections.abc import Callable, Iterable

from sidecar.lifecycle import Lifecycle, Step, Tasks, cancel_all


async def endless() -> None:
    """A loop that only ends when it is cancelled."""
    await asyncio.Event().wait()


def cancel_loops(tasks: Tasks) -> Iterable[Step]:
    """A stop of one step, which cancels the loops."""
    return [Step("end", lambda: cancel_all(tasks), 5)]


def one_loop(
    *reloads: str | Exception,
    status: str = "",
    stop: Callable[[Tasks], Iterable[Step]] = cancel_loops,
) -> Lifecycle:
    """A lifecycle with one loop.

    Args:
        reloads: what each reload returns or raises, in order.
        status: the line for `systemctl status`.
        stop: makes the steps of the graceful stop.
    """
    outcomes = list(reloads)

    async def reload() -> str:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return Lifecycle({"long": endless}, lambda: status, reload, stop)
