"""Lines for a file descriptor that may be full, slow, hung or gone: the caller never waits.

A thread writes them. Lines that it cannot write are dropped and counted, and a notice in their
place says so as soon as there is room again.
"""

import os
import select
import stat
import threading
from collections import Counter, deque
from collections.abc import Callable

from sidecar.runtime.errors import words

_WAITING = 1 << 20  # bytes that may be queued
_RETRY = 5.0  # seconds until a notice that could not be written is retried

Notice = Callable[[int, str], str]
Gap = Counter[str]  # how many lines are missing in one place, by reason


class LineWriter:
    """Writes lines to a file descriptor, from any thread.

    Args:
        number: the file descriptor, which is never closed.
        notice: returns the notice for a number of dropped lines and the reason.
        waiting: bytes that may be queued.
        retry: seconds until a notice that could not be written is retried.
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
        self._owed = Gap()  # notices to write before the next line
        self._error = ""
        self._partial = False  # the last line was written in part
        self._writing = False
        self._flushing = False  # `flush` wants the notices to be retried now
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def owed(self) -> tuple[str, ...]:
        """The reasons for dropped lines whose notices could not be written."""
        with self._changed:
            return tuple(self._owed)

    def put(self, line: str) -> None:
        """Queue a line; neither blocks nor fails."""
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
        """Wait until all is written or dropped; False after `seconds`, or if notices are missing.

        Notices that could not be written are retried once.
        """
        with self._changed:
            self._flushing = bool(self._owed)
            self._changed.notify_all()
            done = self._changed.wait_for(
                lambda: not (self._queue or self._writing or self._flushing), seconds
            )
            return done and not self._owed

    def _drop_newest(self, why: str) -> None:
        """Drop the newest line; its gap comes after all queued lines."""
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
        """The next item to write; None when it is time to retry the notices."""
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
        """Write the outstanding notices; returns whether none is left."""
        for why, count in list(self._owed.items()):
            notice = f"{self._notice(count, why)}\n"
            if not self._write(notice.encode(errors="backslashreplace")):
                return False
            with self._changed:
                del self._owed[why]
        return True

    def _write(self, data: bytes) -> bool:
        """Write all of it; returns whether that was possible."""
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
    """Make a pipe or terminal non-blocking for this process, including its C libraries.

    It is reopened, so that other processes that share it are not affected. What cannot be
    reopened, such as a socket, stays as it is.
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
