"""Daemon threads for work that may block forever.

Acts: asyncio, threading.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

T = TypeVar("T")


def in_daemon_thread(work: Callable[[], T], name: str) -> "asyncio.Future[T]":
    """Run `work` in a daemon thread; the future has its result or error.

    Unlike with `asyncio.to_thread`, a hung disk stops neither the event loop nor the exit of the
    process, and occupies no thread of the shared pool. Cancelling the future does not stop `work`.

    Args:
        work: runs in the thread; may block as long as it likes.
        name: the thread's name.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(outcome: Callable[[], None]) -> None:
        if not future.done():  # it may be cancelled
            outcome()

    def run() -> None:
        try:
            outcome = partial(future.set_result, work())
        except Exception as error:  # noqa: BLE001  # for the awaiter of the future
            outcome = partial(future.set_exception, error)
        with suppress(RuntimeError):  # the loop may have ended
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
