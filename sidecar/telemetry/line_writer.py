"""Lines for a file descriptor that may be full, slow, hung or gone: the writer never waits.

A thread writes them. What it cannot write is dropped and counted, and told where it is missing, as
soon as there is room again.
"""

import os
import select
import stat
import threading
from collections import Counter, deque
from collections.abc import Callable

from sidecar.runtime.errors import words

_WAITING = 1 << 20  # bytes that may wait to be written
_RETRY = 5.0  # seconds until it is tried again to tell what was dropped

Notice = Callable[[int, str], str]
Gap = Counter[str]  # how many lines are missing in one place, for each reason


class LineWriter:
    """Writes lines to a file descriptor, from any thread.

    Args:
        number: the file descriptor; it is never closed.
        notice: gives the line that tells how many were dropped, and why.
        waiting: bytes that may wait to be written.
        retry: seconds until it is tried again to tell what was dropped.
    """

    def __init__(
        self, number: int, notice: Notice, *, waiting: int = _WAITING, retry: float = _RETRY
    ) -> None:
        self.dropped = 0  # since the start
        self._number = number
        self._notice = notice
        self._capacity = waiting
        self._retry = retry
        self._queue: deque[bytes | Gap] = deque()
        self._bytes = 0
        self._owed = Gap()  # to be told before the next line
        self._error = ""
        self._partial = False  # the last line is there in part
        self._writing = False
        self._flushing = False  # a waiter wants the owed to be tried now
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def owed(self) -> tuple[str, ...]:
        """Why lines are missing, where it could not be told in their place."""
        with self._changed:
            return tuple(self._owed)

    def put(self, line: str) -> None:
        """Have a line written; neither blocks nor fails."""
        data = f"{line}\n".encode(errors="backslashreplace")
        with self._changed:
            if self._bytes + len(data) <= self._capacity:
                self._queue.append(data)
                self._bytes += len(data)
            elif len(data) > self._capacity:
                self._drop_newest(f"a line of more than {self._capacity} bytes")
            else:
                self._drop_newest("the reader is too slow, or the disk hangs")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        """Wait, for so long at most, until all is written or dropped; gives whether that is told.

        What cannot be told is tried once more, and not waited for.
        """
        with self._changed:
            self._flushing = bool(self._owed)
            self._changed.notify_all()
            done = self._changed.wait_for(
                lambda: not (self._queue or self._writing or self._flushing), seconds
            )
            return done and not self._owed

    def _drop_newest(self, why: str) -> None:
        """Drop the newest line: it is missing after all that wait."""
        self.dropped += 1
        newest = self._queue[-1] if self._queue else None
        if isinstance(newest, Counter):
            newest[why] += 1
        else:
            self._queue.append(Gap({why: 1}))

    def _run(self) -> None:
        while True:
            item = self._next()
            if isinstance(item, Counter):
                with self._changed:
                    self._owed.update(item)
            there = self._write_notices()
            if isinstance(item, bytes) and not (there and self._write(item)):
                with self._changed:
                    self.dropped += 1
                    self._owed[self._error] += 1

    def _next(self) -> bytes | Gap | None:
        """What is to be written next; nothing, when it is time to try again what is owed."""
        with self._changed:
            self._writing = self._flushing = False
            self._changed.notify_all()
            patience = self._retry if self._owed else None
            self._changed.wait_for(lambda: self._queue or self._flushing, patience)
            self._writing = True
            item = self._queue.popleft() if self._queue else None
            self._bytes -= len(item) if isinstance(item, bytes) else 0
            return item

    def _write_notices(self) -> bool:
        """Write how many were dropped, if it is not told yet; gives whether nothing is owed."""
        for why, count in list(self._owed.items()):
            notice = f"{self._notice(count, why)}\n"
            if not self._write(notice.encode(errors="backslashreplace")):
                return False
            with self._changed:
                del self._owed[why]
        return True

    def _write(self, data: bytes) -> bool:
        """Write it all; gives whether that was possible."""
        if self._partial:
            data = b"\n" + data
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._number, rest) :]
            except BlockingIOError:
                select.select((), (self._number,), ())
            except OSError as error:
                self._error = words(error)
                self._partial = self._partial if len(rest) == len(data) else True
                return False
        self._partial = False
        return True


def unblock(number: int) -> None:
    """See that writing to a pipe or a terminal blocks nobody here, not even libraries in C.

    It is opened anew, so that others who have it are not concerned. Where that cannot be done, as
    with a socket, it stays as it is.
    """
    try:
        if not (stat.S_ISFIFO(os.fstat(number).st_mode) or os.isatty(number)):
            return
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
        own = os.open(f"/proc/self/fd/{number}", flags)
    except OSError:
        return
    os.dup2(own, number)
    os.close(own)
