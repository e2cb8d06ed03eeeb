"""Running a program to its end, or to a deadline, after which it and all it started are killed.

The child is the leader of a session of its own and is reaped only when nothing is sent to its
group any more: until then no stranger can have got its pid.
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
_KEPT = 4 * _QUOTED  # bytes of it that are held
# What systemd has given to this process alone: a program that spoke to it would speak for us.
_OURS = frozenset({"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"})
_KILL_TIMEOUT = 5.0  # seconds that a killed program may take to vanish


async def run(argv: Sequence[str], timeout: float, document: bytes = b"") -> None:
    """Run a program that finds a document on its standard input.

    What it leaves running must have an output of its own, and is not waited for.

    Raises:
        Rejected: it cannot be started, or ends with another status than 0.
        DeadlineExceeded: it does not end in time.
        Unavailable: this machine has nothing left to start it with.
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
    """Wait until the process behind a pidfd has ended.

    Raises:
        TimeoutError: it has not, after so many seconds.
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
    """The end of a text on one line, cut to a length that a log can bear."""
    line = " ".join(text.split())
    return line if len(line) <= _QUOTED else f"…{line[-_QUOTED:]}"


async def _status(argv: Sequence[str], document: bytes, timeout: float, output: bytearray) -> int:
    """The status with which it ends, or minus the number of the signal that kills it."""
    with ExitStack() as stack:
        written = stack.enter_context(_collecting(output))
        # In memory and no pipe: nobody has to wait for a program that does not read.
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
            env={name: value for name, value in os.environ.items() if name not in _OURS},
        )
    except (OSError, ValueError) as error:
        raise Rejected(f"{argv[0]}: cannot be started: {words(error)}") from error


@contextmanager
def _collecting(tail: bytearray) -> Iterator[int]:
    """The writing end of a pipe whose last bytes are kept in `tail`.

    Not asyncio's own: that would wait for whatever else the program left with the pipe open.
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
        read()  # a pipe holds 64 KiB: nothing that an ended program wrote is missed
        loop.remove_reader(reading)
        os.close(reading)
        os.close(writing)


async def _kill_if_running(child: subprocess.Popen[bytes], ended: int) -> None:
    """Kill the group of a child that has not ended; one that a disk or GPU holds may stay."""
    if select.select([ended], [], [], 0)[0]:
        return
    _kill_group(child)
    with suppress(TimeoutError):
        await ending(ended, _KILL_TIMEOUT)


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """Reap the child; kill it only if nobody could wait for it."""
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
    except ValueError:  # those between SIGRTMIN and SIGRTMAX have no name
        return f"signal {number}"


def _with_output(what: str, output: bytearray) -> str:
    said = quote(output.decode(errors="replace"))
    return f"{what}: {said}" if said else what
