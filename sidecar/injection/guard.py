"""The dead man's switch: a separate process that undoes a fault, also if this one cannot.

It undoes the fault when its pipe from this process closes or the time is over, whichever is first:
so also after this process was killed, crashed, or lost its terminal; and if it is frozen, in time.
The undoing always happens there, once; only if that process itself was killed, it happens here.

    with guard([["tc", "qdisc", "del", "dev", "eth0", "root"]], within=30.0):
        ...

Acts: os, subprocess.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from sidecar.injection import guard_process
from sidecar.runtime.errors import Rejected, Unavailable, words
from sidecar.runtime.subprocesses import OURS

_ARMED_WITHIN = 10.0  # seconds for the process to start, on a busy machine
_UNDONE_WITHIN = 30.0


class Guard:
    """An armed switch. `release` undoes the fault; without it, the other process does in time.

    Args:
        run: the commands that undo the fault, run in `/` and without a shell.
        thaw: pidfds of processes that get SIGCONT. The caller closes them after the release.
        within: seconds after which the fault is undone in any case.

    Raises:
        Unavailable: the process cannot be started. Nothing may be injected then.
    """

    def __init__(
        self, run: Sequence[Sequence[str]] = (), *, thaw: Sequence[int] = (), within: float
    ) -> None:
        self._run = [list(argv) for argv in run]
        self._thaw = list(thaw)
        self._released = False
        try:
            self._child = _start(self._thaw)
        except OSError as error:
            raise Unavailable(f"the dead man's switch cannot be started: {words(error)}") from error
        try:
            self._arm(within)
        except BaseException:
            self._end()
            raise

    @property
    def pid(self) -> int:
        """The process."""
        return self._child.pid

    @property
    def fired(self) -> bool:
        """Whether the process has undone the fault, or is gone."""
        if self._released:
            return True
        assert self._child.stdout is not None  # noqa: S101
        return bool(guard_process.readable(0, self._child.stdout.fileno()))

    def release(self) -> None:
        """Undo the fault unless that has happened; a second call does nothing.

        Raises:
            Rejected: part of it could not be undone; the message says what.
        """
        if self._released:
            return
        self._released = True
        self._close()
        failed = self._reported()
        self._end()
        if failed is None:  # it was killed
            failed = [*guard_process.thaw(self._thaw), *guard_process.run(self._run)]
        if failed:
            raise Rejected(f"not undone: {'; '.join(failed)}")

    def _arm(self, within: float) -> None:
        order = json.dumps({"within": within, "thaw": self._thaw, "run": self._run})
        assert self._child.stdin is not None  # noqa: S101
        with suppress(OSError):  # it has ended, as the missing answer shows
            os.write(self._child.stdin.fileno(), order.encode() + b"\n")
        if self._read(_ARMED_WITHIN) != guard_process.ARMED:
            raise Unavailable("the dead man's switch did not start")

    def _reported(self) -> list[str] | None:
        """What could not be undone; None if the process has not said that it is done."""
        try:
            return list(json.loads(self._read(_UNDONE_WITHIN))["failed"])
        except ValueError:
            return None

    def _read(self, timeout: float) -> bytes:
        """One line; what has come until the end of the process, or of the time."""
        assert self._child.stdout is not None  # noqa: S101
        found, reading = bytearray(), self._child.stdout.fileno()
        while not found.endswith(b"\n") and guard_process.readable(timeout, reading):
            if not (data := os.read(reading, 4096)):
                break
            found += data
        return bytes(found)

    def _close(self) -> None:
        assert self._child.stdin is not None  # noqa: S101
        with suppress(OSError):
            self._child.stdin.close()

    def _end(self) -> None:
        """Reap the process, which has nothing left to do."""
        self._close()
        self._child.kill()
        self._child.wait()
        assert self._child.stdout is not None  # noqa: S101
        self._child.stdout.close()


@contextmanager
def guard(
    run: Sequence[Sequence[str]] = (), *, thaw: Sequence[int] = (), within: float
) -> Iterator[Guard]:
    """Guard a fault that is caused in the block; see `Guard`."""
    armed = Guard(run, thaw=thaw, within=within)
    try:
        yield armed
    finally:
        armed.release()


def _start(inherited: Sequence[int]) -> subprocess.Popen[bytes]:
    # Its own session: neither Ctrl-C nor the end of the terminal reaches it.
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(guard_process.__file__))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        start_new_session=True,
        pass_fds=inherited,
        env={name: value for name, value in os.environ.items() if name not in OURS},
        cwd="/",
    )
