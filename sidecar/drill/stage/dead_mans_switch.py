"""Faults that are undone even if the drill cannot do it: killed, crashed, or without its terminal.

    with thawed_at_the_end(pids):
        os.killpg(group, signal.SIGSTOP)
        ...
    async with without_blocking(thawed_at_the_end(pids)):
        ...
    async with undone_at_the_end(undo.consul(stage, "DELETE", "kv/key")):
        ...

Acts: asyncio, os.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import (
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from typing import TypeVar

from sidecar.injection.guard import guard
from sidecar.runtime.threads import in_daemon_thread

_T = TypeVar("_T")

WITHIN = 600.0  # seconds: a drill that takes longer, because it is frozen itself, loses its fault


@contextmanager
def thawed_at_the_end(pids: Iterable[int], within: float = WITHIN) -> Iterator[None]:
    """Processes that are frozen in the block: they get SIGCONT when it or this process ends.

    Raises:
        Unavailable: the switch cannot be armed. Nothing may be frozen then.
    """
    with ExitStack() as held:
        handles = []
        for pid in pids:
            with suppress(ProcessLookupError):  # it has ended
                handles.append(os.pidfd_open(pid))
                held.callback(os.close, handles[-1])
        with guard(thaw=handles, within=within):
            yield


@asynccontextmanager
async def undone_at_the_end(
    *commands: Sequence[str], within: float = WITHIN
) -> AsyncIterator[None]:
    """Run commands when the block or this process ends, whichever is first.

    Raises:
        Unavailable: the switch cannot be armed. Nothing may be injected then.
        Rejected: at the end, if a command failed; the message says which.
    """
    async with without_blocking(guard(commands, within=within)):
        yield


@asynccontextmanager
async def without_blocking(fault: AbstractContextManager[_T]) -> AsyncIterator[_T]:
    """Begin and end a context in a thread, because a switch takes seconds on a busy machine.

    The context is not told of the block's error. A cancellation waits until it has begun, and
    ends it as well.

    Raises:
        SidecarError: as the context does.
    """
    beginning = in_daemon_thread(fault.__enter__, "dead_mans_switch")
    try:
        yield await asyncio.shield(beginning)
    finally:
        await asyncio.wait((beginning,))
        if beginning.exception() is None:
            await in_daemon_thread(lambda: fault.__exit__(None, None, None), "dead_mans_switch")
