"""The client of NVML: one thread that calls it, and deadlines for its callers.

A call into a broken driver can block for seconds or forever, and cannot be interrupted.

Acts: asyncio, threading.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self, TypeVar

from sidecar.gpu.api import ALL, GpuReading, Selection
from sidecar.gpu.nvml import Nvml
from sidecar.runtime.errors import DeadlineExceeded

T = TypeVar("T")
_CLOSING = 1.0  # seconds


class Gpu:
    """The GPUs of this machine through NVML; an async context manager, used from one event loop.

    The first reading loads and initializes NVML, and so does the reading after NVML was unavailable
    or a GPU was lost. At most one reading is in progress: another `read` waits for the same one.

    Args:
        selection: the GPUs to read.
        module: a replacement for `pynvml`.
    """

    def __init__(self, selection: Selection = ALL, module: Any = None) -> None:
        self._nvml = Nvml(selection, module)
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._reading: asyncio.Future[tuple[GpuReading, ...]] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the NVML session, unless NVML hangs."""
        if self._thread is None:
            return
        closed = self._submit(self._nvml.close)
        self._jobs.put(None)
        self._thread = self._reading = None
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING):
                await asyncio.shield(closed)

    @property
    def driver(self) -> str | None:
        """The driver's version, once NVML has reported it."""
        return self._nvml.driver

    async def read(self, timeout: float) -> tuple[GpuReading, ...]:
        """A reading of each GPU; empty without a GPU.

        Args:
            timeout: seconds.

        Raises:
            DeadlineExceeded: NVML does not answer.
            Unavailable: there is no NVML, no driver or no permission; the message says which.
        """
        if self._reading is None or self._reading.done():
            self._reading = self._submit(self._nvml.read)
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(self._reading)
        except TimeoutError:
            raise DeadlineExceeded("NVML does not answer") from None

    def _submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Run work in the thread; the future may outlive its waiter."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        future.add_done_callback(_look_at)

        def job() -> None:
            try:
                settle = _setter(future, work())
            except BaseException as error:  # noqa: BLE001  # for the waiter, not for the thread
                settle = _thrower(future, error)
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(settle)

        if self._thread is None:
            # Not an executor's: Python waits for those on exit, and this one may hang.
            self._thread = threading.Thread(
                target=_work, args=(self._jobs,), name="nvml", daemon=True
            )
            self._thread.start()
        self._jobs.put(job)
        return future


def _work(jobs: "queue.SimpleQueue[Callable[[], None] | None]") -> None:
    while (job := jobs.get()) is not None:
        job()


def _setter(future: "asyncio.Future[T]", result: T) -> Callable[[], None]:
    return lambda: None if future.done() else future.set_result(result)


def _thrower(future: "asyncio.Future[T]", error: BaseException) -> Callable[[], None]:
    return lambda: None if future.done() else future.set_exception(error)


def _look_at(future: "asyncio.Future[Any]") -> None:
    """Retrieve the exception: without a waiter, asyncio would log it as never retrieved."""
    if not future.cancelled():
        future.exception()
