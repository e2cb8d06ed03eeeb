"""Lines for a file descriptor that may be full, slow, hung or gone: whoever has one never waits.

A thread writes them. What it cannot write is dropped and counted, and told as soon as there is room
again.
"""

import os
import select
import stat
import threading
from collections import deque
from collections.abc import Callable

_WAITING = 1 << 20  # bytes that may wait to be written
_RETRY = 5.0  # seconds until it is tried again to tell what was dropped

Notice = Callable[[int, str], str]


class Lines:
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
        self._most = waiting
        self._retry = retry
        self._queue: deque[bytes] = deque()
        self._bytes = 0
        self._told = 0  # of those dropped
        self._why = ""
        self._torn = False  # the last line is there in part
        self._writing = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def put(self, line: str) -> None:
        """Have a line written; neither blocks nor fails."""
        data = f"{line}\n".encode(errors="backslashreplace")
        with self._changed:
            if self._bytes + len(data) > self._most:
                self._drop("the reader is too slow, or the disk hangs")
                return
            self._queue.append(data)
            self._bytes += len(data)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        """Wait, for so long at most, until all is written or dropped; gives whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._queue or self._writing), seconds)

    def _drop(self, why: str) -> None:
        self.dropped += 1
        self._why = why

    def _run(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                owed = self.dropped > self._told
                self._changed.wait_for(lambda: self._queue, self._retry if owed else None)
                self._writing = True
                data = self._queue.popleft() if self._queue else b""
                self._bytes -= len(data)
            if not (self._tell() and self._put(data)) and data:
                with self._changed:
                    self._drop(self._why)

    def _tell(self) -> bool:
        """Write how many were dropped, if it is not told yet; gives whether nothing is owed."""
        with self._changed:
            dropped, why = self.dropped, self._why
        if dropped == self._told:
            return True
        line = self._notice(dropped - self._told, why)
        if not self._put(f"{line}\n".encode(errors="backslashreplace")):
            return False
        self._told = dropped
        return True

    def _put(self, data: bytes) -> bool:
        """Write it all; gives whether that was possible."""
        if self._torn:
            data = b"\n" + data
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._number, rest) :]
            except BlockingIOError:
                select.select((), (self._number,), ())
            except OSError as error:
                self._why = error.strerror or str(error)
                self._torn = self._torn if len(rest) == len(data) else True
                return False
        self._torn = False
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
