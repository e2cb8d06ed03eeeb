"""Running the command of a hook: a program that finds a document on its standard input."""

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from typing import IO

from sidecar.errors import DeadlineExceeded, Rejected, Unavailable
from sidecar.recovery.program import _bury, _collecting, _end_group, ending, quote


async def run(argv: Sequence[str], document: bytes, timeout: float) -> None:
    """Run a program to its end, or to a deadline, after which its process group is killed.

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
        what = f"{argv[0]}: did not end within {timeout:.3g} s"
        raise DeadlineExceeded(_told(what, output)) from None
    except OSError as error:
        raise Unavailable(f"{argv[0]}: {error}") from error
    if status:
        ended = f"ended with {status}" if status > 0 else f"was killed by {_signal(-status)}"
        raise Rejected(_told(f"{argv[0]}: {ended}", output))


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
            await _bury(child, ended)
        return child.wait()


def _start(argv: Sequence[str], read: IO[bytes], written: int) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            argv, stdin=read, stdout=written, stderr=subprocess.STDOUT, start_new_session=True
        )
    except (OSError, ValueError) as error:
        raise Rejected(f"{argv[0]}: cannot be started: {error}") from error


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # those between SIGRTMIN and SIGRTMAX have no name
        return f"signal {number}"


def _told(what: str, output: bytearray) -> str:
    said = quote(output.decode(errors="replace"))
    return f"{what}: {said}" if said else what
