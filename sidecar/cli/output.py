"""Guards a verb whose standard output or error cannot be written: a full disk, a closed pipe.

Only the output is lost: the verb runs to its end, with the exit status that it would have had. But
a failed write, such as to a full disk, is reported with exit status 1. A reader that leaves, as
`head` does, is no failure.
"""

import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_IN, _OUT, _ERROR = 0, 1, 2


class _Descriptor(io.RawIOBase):
    """A file descriptor; output that it does not accept is dropped."""

    def __init__(self, number: int) -> None:
        self._number = number

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            return os.write(self._number, data)
        except OSError:
            return memoryview(data).nbytes


class _Output(_Descriptor):
    """Standard output; after its first failure nothing is written: a gap is worse than an end."""

    fault: OSError | None = None

    def write(self, data: "ReadableBuffer", /) -> int:
        while self.fault is None:
            try:
                return os.write(self._number, data)
            except BlockingIOError:  # another process made it non-blocking, and its reader is slow
                select.select((), (self._number,), ())
            except OSError as error:
                self.fault = error
        return memoryview(data).nbytes

    @property
    def trouble(self) -> str:
        """Why the output is incomplete, if the caller must know."""
        known = self.fault is None or self.fault.errno == errno.EPIPE
        return "" if known or self.fault is None else os.strerror(self.fault.errno or 0)


@contextmanager
def guard_output() -> Iterator[None]:
    """Run a command whose output may be lost.

    Raises:
        SystemExit: standard output could not be written, although it has a reader.
    """
    _open_closed()
    before = sys.stdout, sys.stderr
    output = _Output(_OUT)
    sys.stdout = _text(output, before[0])
    sys.stderr = _text(_Descriptor(_ERROR), before[1])
    status: str | int | None = None
    try:
        yield
    except SystemExit as ended:
        status = ended.code
        raise
    finally:
        sys.stdout.flush()
        if output.trouble:
            print(f"triton-sidecar: standard output: {output.trouble}", file=sys.stderr)
        sys.stdout, sys.stderr = before
        if output.trouble and not status:
            sys.exit(1)


def is_still_read() -> bool:
    """Whether standard output still has a reader; a verb that prints for long may end if not."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return not isinstance(raw, _Output) or raw.fault is None


def _open_closed() -> None:
    """Open closed standard streams.

    Else the next file or socket would get their numbers, and so the output of C libraries.
    """
    for number in (_IN, _OUT, _ERROR):
        try:
            os.fstat(number)
        except OSError:
            # Each takes the lowest free number. Writes to a closed standard error may vanish, but
            # writes to a closed standard output must fail.
            os.open(os.devnull, os.O_WRONLY if number == _ERROR else os.O_RDONLY)
            os.set_inheritable(number, True)
    if sys.stdin is None:  # as Python sets it then
        sys.stdin = open(_IN, closefd=False)  # noqa: SIM115


def _text(raw: _Descriptor, before: TextIO | None) -> TextIO:
    """A text stream like the one before; characters that its encoding lacks are escaped."""
    errors = "backslashreplace"
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=before.encoding if before else "utf-8",
        errors=errors if before is None or before.errors in (None, "strict") else before.errors,
        line_buffering=raw.fileno() == _ERROR or raw.isatty(),
        write_through=os.environ.get("PYTHONUNBUFFERED", "") != "",
    )
