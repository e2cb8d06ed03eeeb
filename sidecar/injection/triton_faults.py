"""Causes faults to Triton's processes and to this one, and undoes them.

Triton is found and verified as recovery does it: the process that listens on its address, on this
host. A process is held by a pidfd from the moment it was verified, so that another one that gets
its pid is never signalled. Blocking: call it in a thread.

Acts: os, signal, threading.
"""

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

from sidecar.injection import guard_process
from sidecar.injection.guard import Guard
from sidecar.injection.rules import OF_SIDECAR, TRITON_FROZEN, Fault
from sidecar.recovery import triton_processes
from sidecar.runtime.errors import Rejected, Unavailable, words

_SERVER, _STUB = "tritonserver", "triton_python_backend_stub"
_FROZEN = TRITON_FROZEN | {Fault.SIDECAR_FROZEN}


class PreparedFault:
    """A fault whose processes are known and verified; nothing has been done to them yet.

    Args:
        fault: the fault.
        host: where Triton listens.
        port: likewise.

    Raises:
        Rejected: the processes are not here, or this user may not signal them.
        Unavailable: the system cannot look or hold them now, such as without free descriptors.
    """

    def __init__(self, fault: Fault, host: str, port: int) -> None:
        self.fault = fault
        self._stack = ExitStack()
        self._lock, self._undone = threading.Lock(), False
        self._guard: Guard | None = None
        try:
            found = [] if fault in OF_SIDECAR else _processes(fault, host, port)
            self._handles = list(self._held(found))
            if fault in OF_SIDECAR:
                self._handles = [self._hold(os.getpid())]
            for handle in self._handles:
                _probe(handle)
        except OSError as error:
            self._stack.close()
            raise Unavailable(f"Triton's processes: {words(error)}") from error
        except BaseException:
            self._stack.close()
            raise

    def arm(self, seconds: float) -> None:
        """Start the dead man's switch, for a fault that has to be undone.

        Raises:
            Unavailable: it cannot be started.
            Rejected: the fault was undone meanwhile.
        """
        with self._lock:  # `undo` closes the handles
            if self._undone:
                raise Rejected(f"{self.fault}: it was undone before it was caused")
            if self.fault in _FROZEN:
                self._guard = Guard(thaw=self._handles, within=seconds)

    def cause(self) -> None:
        """Cause the fault. If it hits this process, it returns after it is over, or never.

        Raises:
            Rejected: there was nothing to signal, or the fault was undone meanwhile.
        """
        frozen = self.fault in _FROZEN
        number = signal.SIGSTOP if frozen else signal.SIGKILL
        with self._lock:
            if self._undone or (frozen and self.over):
                raise Rejected(f"{self.fault}: its time was over before it was caused")
            if not sum(_signal(handle, number) for handle in self._handles):
                raise Rejected(f"{self.fault}: the processes have ended")
            if frozen and self.over:  # while they were signalled
                self._thaw()

    @property
    def over(self) -> bool:
        """Whether no switch is armed, or it has fired."""
        return self._guard is None or self._guard.fired

    def undo(self) -> None:
        """Undo the fault; a second call does nothing.

        Raises:
            Rejected: part of it could not be undone.
        """
        with self._lock, self._stack:
            if self._undone:
                return
            self._undone = True
            if self._guard:
                try:
                    self._guard.release()
                finally:
                    self._thaw()

    def _thaw(self) -> None:
        for handle in self._handles:
            _signal(handle, signal.SIGCONT)

    def _held(self, found: Iterable[psutil.Process]) -> Iterator[int]:
        for process in found:
            handle = self._hold(process.pid)
            if not process.is_running():  # by its start time, too
                raise Rejected(f"process {process.pid}: the process is gone")
            yield handle

    def _hold(self, pid: int) -> int:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            raise Rejected(f"process {pid}: the process is gone") from None
        self._stack.callback(os.close, handle)
        return handle


def thaw(host: str, port: int) -> None:
    """Continue Triton's processes, which an earlier process of this sidecar has frozen.

    Raises:
        Rejected: they are not here, or this user may not signal them.
    """
    for process in _family(triton_processes.listening(host, port)):
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)  # psutil verifies that the pid was not reused


def _processes(fault: Fault, host: str, port: int) -> list[psutil.Process]:
    """Those that a fault is caused to: the server first, so that it starts no other."""
    server, *descendants = _family(triton_processes.listening(host, port))
    if fault in (Fault.CRASH, Fault.FREEZE):
        return [server, *descendants]
    if not (stubs := [each for each in descendants if _program(each) == _STUB]):
        raise Rejected(f"process {server.pid} has no stubs of Python models")
    return stubs


def _family(server: psutil.Process) -> list[psutil.Process]:
    """The server and its descendants.

    Raises:
        Rejected: the listener is something else, such as a container's proxy, or runs this sidecar.
    """
    try:
        family = [server, *server.children(recursive=True)]
        program = server.name()
    except psutil.Error:
        raise Rejected(f"process {server.pid}: the process is gone, or is another user's") from None
    if program != _SERVER:
        raise Rejected(f"process {server.pid}: expected {_SERVER}, found {program}")
    if triton_processes.untouchable() & {each.pid for each in family}:
        raise Rejected(f"process {server.pid}: the sidecar itself depends on it")
    return family


def _program(process: psutil.Process) -> str:
    try:
        return Path((process.cmdline() or [""])[0]).name
    except psutil.Error:
        return ""


def _probe(handle: int) -> None:
    """Whether the process may be signalled.

    Raises:
        Rejected: it may not, or has ended.
    """
    try:
        signal.pidfd_send_signal(handle, 0)
    except PermissionError:
        raise Rejected("this user may not signal Triton's processes") from None
    except ProcessLookupError:
        raise Rejected("the process is gone") from None


def _signal(handle: int, number: signal.Signals) -> bool:
    if guard_process.readable(0, handle):  # it has ended, and is perhaps a zombie
        return False
    try:
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    return True
