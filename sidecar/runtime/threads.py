"""Work that may block for ever, in a thread that nothing waits for."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

T = TypeVar("T")


def in_daemon_thread(work: Callable[[], T], name: str) -> "asyncio.Future[T]":
    """What `work` gives, or raises.

    Unlike with `asyncio.to_thread`, a disk that hangs stops neither the event loop nor the end of
    the process, nor does it take one of the few threads that others need. To stop waiting for the
    future stops nothing of the work.

    Args:
        work: runs in the thread; blocks as long as it likes.
        name: the thread's.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(outcome: Callable[[], None]) -> None:
        if not future.done():  # else somebody has cancelled it
            outcome()

    def run() -> None:
        try:
            outcome = partial(future.set_result, work())
        except Exception as error:  # noqa: BLE001  # for the awaiter of the future
            outcome = partial(future.set_exception, error)
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
