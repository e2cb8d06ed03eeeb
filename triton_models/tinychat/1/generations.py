"""Many slow generations on one thread; no Triton in here.

A generation is a step function: called with the time, it does what is due and returns the time of
its next call, or None when it has ended. One thread and a heap carry hundreds of them, so that
execute() can return at once and a waiting generation costs nothing.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from itertools import count

Step = Callable[[float], float | None]  # monotonic seconds in, monotonic seconds out


class Full(Exception):
    """No room for another generation, or closing; try another server."""


class Generations:
    """At most `limit` generations at once. `on_error` gets the exception of a step that raised.

    A step that raises ends only its own generation.
    """

    def __init__(self, limit: int, on_error: Callable[[Exception], None]) -> None:
        self._limit = limit
        self._on_error = on_error
        self._order = count()  # equal times keep their order, and steps are never compared
        self._due: list[tuple[float, int, Step]] = []
        self._running = 0
        self._closing = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="generations", daemon=True)
        self._thread.start()

    def submit(self, step: Step) -> None:
        """Have `step` called soon. Raises Full at the limit and after close()."""
        with self._wake:
            if self._closing:
                raise Full("the model is being unloaded")
            if self._running >= self._limit:
                raise Full(f"{self._limit} generations are running, no more fit")
            self._running += 1
            self._push(time.monotonic(), step)
            self._wake.notify()

    def close(self, timeout: float) -> bool:
        """Take nothing new and wait `timeout` seconds for the running ones; True if all ended."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (step := self._next()) is not None:
            again = self._call(step)
            with self._wake:
                if again is None:
                    self._running -= 1
                else:
                    self._push(again, step)
            # Released before the next step is due: it may hold objects that Triton waits for.
            del step

    def _next(self) -> Step | None:
        """Wait for the next step that is due; None when closing and nothing is left."""
        with self._wake:
            while True:
                if not self._due and self._closing:
                    return None
                wait = self._due[0][0] - time.monotonic() if self._due else None
                if wait is not None and wait <= 0:
                    return heapq.heappop(self._due)[2]
                self._wake.wait(wait)

    def _call(self, step: Step) -> float | None:
        try:
            return step(time.monotonic())
        except Exception as error:  # noqa: BLE001 - one broken generation must not end the others
            self._on_error(error)
            return None

    def _push(self, when: float, step: Step) -> None:
        heapq.heappush(self._due, (when, next(self._order), step))
