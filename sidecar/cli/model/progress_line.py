"""Shows on standard error how far a long operation is: one line that is overwritten."""

import sys
import time

from sidecar.models.store.progress import Progress
from sidecar.runtime.amounts import in_bytes

_EVERY = 0.2  # seconds
_CLEAR = "\r\033[K"


class ProgressLine(Progress):
    """A line such as `storing 41 %, 8.2 GB of 20.0 GB, 450.1 MB/s`."""

    def __init__(self) -> None:
        self._what, self._total, self._done = "", 0, 0
        self._began = self._shown = 0.0

    def begin(self, what: str, total: int) -> None:
        """Start the line again."""
        self._what, self._total, self._done = what, total, 0
        self._began = time.monotonic()

    def add(self, size: int) -> None:
        """Count bytes; the line follows a few times a second, and ends with the last byte."""
        self._done += size
        now = time.monotonic()
        if self._done >= self._total:
            self.clear()
        elif now - self._shown >= _EVERY:
            self._shown = now
            rate = self._done / max(now - self._began, _EVERY)
            line = (
                f"{self._what} {100 * self._done // max(self._total, 1)} %, "
                f"{in_bytes(self._done)} of {in_bytes(self._total)}, {in_bytes(rate)}/s"
            )
            print(f"{_CLEAR}{line}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Remove the line, before something else is printed."""
        if self._shown:
            print(_CLEAR, end="", file=sys.stderr, flush=True)
            self._shown = 0.0
