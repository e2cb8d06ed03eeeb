"""Standard output and standard error that cannot be written to: a full disk, a reader that left.

What is said is lost then, and nothing else: a verb goes on to its end, and has the exit status that
it would have had. Only who wrote to a full disk or the like is told so, with exit status 1; a
reader that left, as `head` does, wanted no more.
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
    """A file descriptor; what it does not take is swallowed."""

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
    """After its first failure nothing is written any more: what has a gap is worse than an end."""

    fault: OSError | None = None

    def write(self, data: "ReadableBuffer", /) -> int:
        while self.fault is None:
            try:
                return os.write(self._number, data)
            except BlockingIOError:  # another process has made it so, and its reader is slow
                select.select((), (self._number,), ())
            except OSError as error:
                self.fault = error
        return memoryview(data).nbytes

    @property
    def trouble(self) -> str:
        """Why not all is there, if the caller has to know."""
        known = self.fault is None or self.fault.errno == errno.EPIPE
        return "" if known or self.fault is None else os.strerror(self.fault.errno or 0)


@contextmanager
def guard_output() -> Iterator[None]:
    """Run a command whose output may be lost.

    Raises:
        SystemExit: standard output could not be written to, though somebody wants it.
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
    """Whether what is printed still reaches anybody; who prints for long may end if not."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return not isinstance(raw, _Output) or raw.fault is None


def _open_closed() -> None:
    """Give the standard streams that are closed their numbers.

    Else the next file or socket would get them, and with them what libraries say in C.
    """
    for number in (_IN, _OUT, _ERROR):
        try:
            os.fstat(number)
        except OSError:
            # Each takes the lowest free number. Nobody wants what goes to a closed standard error,
            # while output that is asked for has to fail.
            os.open(os.devnull, os.O_WRONLY if number == _ERROR else os.O_RDONLY)
            os.set_inheritable(number, True)
    if sys.stdin is None:  # as Python has it then
        sys.stdin = open(_IN, closefd=False)  # noqa: SIM115


def _text(raw: _Descriptor, before: TextIO | None) -> TextIO:
    """A text stream like that of before; a character that its encoding lacks is escaped."""
    errors = "backslashreplace"
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=before.encoding if before else "utf-8",
        errors=errors if before is None or before.errors in (None, "strict") else before.errors,
        line_buffering=raw.fileno() == _ERROR or raw.isatty(),
        write_through=os.environ.get("PYTHONUNBUFFERED", "") != "",
    )
