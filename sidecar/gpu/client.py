"""The door to NVML: one thread that asks it, and deadlines for those who wait.

A call into a sick driver can block for seconds or for ever, and nothing can interrupt it.
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

    NVML is loaded and initialized by the first reading, and anew after it was unavailable or a GPU
    was lost. It never has more than one reading to do: while one is outstanding, the next `read`
    waits for that same one.

    Args:
        selection: the GPUs that count.
        module: stands in for `pynvml`.
    """

    def __init__(self, selection: Selection = ALL, module: Any = None) -> None:
        self._nvml = Nvml(selection, module)
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._reading: asyncio.Future[tuple[GpuReading, ...]] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """End NVML's session, unless it hangs."""
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
        """The driver's version, once NVML has told it."""
        return self._nvml.driver

    async def read(self, timeout: float) -> tuple[GpuReading, ...]:
        """A reading of each GPU; no GPU is no reading.

        Args:
            timeout: seconds.

        Raises:
            DeadlineExceeded: NVML does not answer.
            Unavailable: there is no NVML, no driver or no permission; it says which.
        """
        if self._reading is None or self._reading.done():
            self._reading = self._submit(self._nvml.read)
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(self._reading)
        except TimeoutError:
            raise DeadlineExceeded("NVML does not answer") from None

    def _submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Have the thread do something; the future may outlive its waiter."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        future.add_done_callback(_look_at)

        def job() -> None:
            try:
                settle = _setter(future, work())
            except BaseException as error:  # noqa: BLE001  # it is for who waits, not for the thread
                settle = _thrower(future, error)
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(settle)

        if self._thread is None:
            # Not an executor's: Python waits for those when it exits, and this one may hang.
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
    """Nobody may be waiting any more; asyncio would complain about an error that nobody saw."""
    if not future.cancelled():
        future.exception()
