"""Programs run to their end, or to a deadline, when they and all they started are killed.

The child leads a separate session, and is reaped only after the last signal to its group: until
then its pid cannot be reused.

Acts: asyncio, os, select, signal, subprocess.
"""

import asyncio
import os
import select
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import IO

from sidecar.runtime.errors import DeadlineExceeded, Rejected, Unavailable, words

_QUOTED = 300  # characters of a program's output in an error
_KEPT = 4 * _QUOTED  # bytes of it that are kept
# systemd's variables for this process alone: a program that used them would speak for us.
OURS = frozenset({"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"})
_KILL_TIMEOUT = 5.0  # seconds that a killed program may take to end


async def run(argv: Sequence[str], timeout: float, document: bytes = b"") -> None:
    """Run a program with a document on its standard input.

    Processes that it leaves running are not waited for; they must have their own output.

    Raises:
        Rejected: it cannot be started, or ends with a status other than 0.
        DeadlineExceeded: it does not end in time.
        Unavailable: this machine lacks the resources to start it.
    """
    output = bytearray()
    try:
        status = await _status(argv, document, timeout, output)
    except TimeoutError:
        raise DeadlineExceeded(
            _with_output(f"{argv[0]}: did not end within {timeout:.3g} s", output)
        ) from None
    except OSError as error:
        raise Unavailable(f"{argv[0]}: {words(error)}") from error
    if status:
        raise Rejected(_with_output(f"{argv[0]}: {_exit_text(status)}", output))


async def ending(handle: int, timeout: float) -> None:
    """Wait until the process of a pidfd has ended.

    Raises:
        TimeoutError: it has not, after `timeout` seconds.
    """
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(handle, ended.set)
    try:
        async with asyncio.timeout(timeout):
            await ended.wait()
    finally:
        loop.remove_reader(handle)


def quote(text: str) -> str:
    """The end of a text on one line, short enough for a log."""
    line = " ".join(text.split())
    return line if len(line) <= _QUOTED else f"…{line[-_QUOTED:]}"


async def _status(argv: Sequence[str], document: bytes, timeout: float, output: bytearray) -> int:
    """The exit status, or minus the number of the signal that killed it."""
    with ExitStack() as stack:
        written = stack.enter_context(_collecting(output))
        # In memory, not a pipe: a program that does not read blocks nothing.
        read = stack.enter_context(os.fdopen(os.memfd_create("document"), "wb+"))
        read.write(document)
        read.seek(0)
        child = _start(argv, read, written)
        stack.callback(_end_group, child)
        ended = os.pidfd_open(child.pid)
        stack.callback(os.close, ended)
        try:
            await ending(ended, timeout)
        finally:
            await _kill_if_running(child, ended)
        return child.wait()


def _start(argv: Sequence[str], read: IO[bytes], written: int) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            argv,
            stdin=read,
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if name not in OURS},
        )
    except (OSError, ValueError) as error:
        raise Rejected(f"{argv[0]}: cannot be started: {words(error)}") from error


@contextmanager
def _collecting(tail: bytearray) -> Iterator[int]:
    """The write end of a pipe whose last bytes are kept in `tail`.

    Not asyncio's: that would wait for processes that the program left with the pipe open.
    """
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    loop = asyncio.get_running_loop()

    def read() -> None:
        with suppress(BlockingIOError):
            if not (data := os.read(reading, 65536)):
                loop.remove_reader(reading)
            tail.extend(data)
            del tail[:-_KEPT]

    loop.add_reader(reading, read)
    try:
        yield writing
    finally:
        read()  # a pipe holds 64 KiB, so all that the program wrote is read
        loop.remove_reader(reading)
        os.close(reading)
        os.close(writing)


async def _kill_if_running(child: subprocess.Popen[bytes], ended: int) -> None:
    """Kill the group of a child that has not ended; one stuck on a disk or GPU may stay."""
    if select.select([ended], [], [], 0)[0]:
        return
    _kill_group(child)
    with suppress(TimeoutError):
        await ending(ended, _KILL_TIMEOUT)


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """Reap the child; kill it first if it could not be waited for."""
    if child.poll() is None:
        _kill_group(child)


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _exit_text(status: int) -> str:
    return f"ended with {status}" if status > 0 else f"was killed by {_signal(-status)}"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no name
        return f"signal {number}"


def _with_output(what: str, output: bytearray) -> str:
    quoted = quote(output.decode(errors="replace"))
    return f"{what}: {quoted}" if quoted else what
