"""Faults to the processes of something that listens where Triton would, under its name."""

import errno
import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidecar.injection import triton_faults
from sidecar.injection.guard import Guard
from sidecar.injection.rules import Fault
from sidecar.injection.triton_faults import PreparedFault
from sidecar.runtime.errors import Rejected, Unavailable
from tests.support.frozen import becomes, server, state

HOST, LONG = "127.0.0.1", 600.0


def test_a_freeze_stops_all_processes_until_it_is_undone(tmp_path: Path) -> None:
    with server(tmp_path) as (port, pid, stubs):
        fault = PreparedFault(Fault.FREEZE, HOST, port)
        fault.arm(LONG)
        fault.cause()
        becomes(lambda: {state(each) for each in (pid, *stubs)} == {"T"}, "all are frozen")
        fault.undo()
        assert "T" not in {state(each) for each in (pid, *stubs)}
        fault.undo()


def test_frozen_stubs_leave_the_server_alone(tmp_path: Path) -> None:
    with server(tmp_path) as (port, pid, stubs):
        fault = PreparedFault(Fault.STUBS_FROZEN, HOST, port)
        fault.arm(LONG)
        fault.cause()
        becomes(lambda: {state(each) for each in stubs} == {"T"}, "the stubs are frozen")
        assert state(pid) == "S"
        fault.undo()


def test_killed_stubs_leave_the_server_alone(tmp_path: Path) -> None:
    with server(tmp_path) as (port, pid, stubs):
        fault = PreparedFault(Fault.STUBS_KILLED, HOST, port)
        fault.arm(LONG)
        fault.cause()
        becomes(lambda: {state(each) for each in stubs} == {"Z"}, "the stubs are dead")
        assert state(pid) == "S"
        fault.undo()


def test_a_crash_kills_the_server_and_its_stubs(tmp_path: Path) -> None:
    with server(tmp_path) as (port, pid, stubs):
        fault = PreparedFault(Fault.CRASH, HOST, port)
        fault.arm(LONG)
        fault.cause()
        becomes(lambda: {state(each) for each in (pid, *stubs)} <= {"Z", ""}, "all are dead")
        fault.undo()


def test_what_is_prepared_only_is_not_touched(tmp_path: Path) -> None:
    with server(tmp_path) as (port, pid, stubs):
        PreparedFault(Fault.CRASH, HOST, port).undo()
        assert not {state(each) for each in (pid, *stubs)} & {"T", "Z", ""}


def test_a_server_that_has_ended_since_is_told(tmp_path: Path) -> None:
    with server(tmp_path) as (port, pid, stubs):
        fault = PreparedFault(Fault.FREEZE, HOST, port)
        other = PreparedFault(Fault.CRASH, HOST, port)
        other.cause()
        becomes(lambda: {state(each) for each in (pid, *stubs)} <= {"Z", ""}, "all are dead")
        fault.arm(LONG)
        with pytest.raises(Rejected, match="have ended"):
            fault.cause()
        fault.undo()


def test_what_is_not_triton_is_refused(tmp_path: Path) -> None:
    """Such as a container's proxy, which nothing would restart."""
    with (
        server(tmp_path, "docker-proxy") as (port, pid, _),
        pytest.raises(Rejected, match="expected tritonserver, found docker-proxy"),
    ):
        PreparedFault(Fault.CRASH, HOST, port)
    with pytest.raises(Rejected, match="nothing listens"):
        PreparedFault(Fault.CRASH, HOST, port)
    assert pid


def test_what_an_earlier_process_has_frozen_is_thawed(tmp_path: Path) -> None:
    with server(tmp_path) as (port, pid, stubs):
        for each in (pid, *stubs):
            os.kill(each, signal.SIGSTOP)
        becomes(lambda: {state(each) for each in (pid, *stubs)} == {"T"}, "all are frozen")
        triton_faults.thaw(HOST, port)
        becomes(lambda: "T" not in {state(each) for each in (pid, *stubs)}, "all are thawed")


def test_nothing_is_frozen_that_no_guard_would_thaw(tmp_path: Path) -> None:
    with server(tmp_path) as (port, pid, stubs):
        late = PreparedFault(Fault.FREEZE, HOST, port)
        late.arm(0.05)
        becomes(lambda: late.over, "the guard has fired")
        undone, unarmed = (PreparedFault(Fault.FREEZE, HOST, port) for _ in range(2))
        undone.arm(LONG)
        undone.undo()
        for fault in (late, undone, unarmed):
            with pytest.raises(Rejected, match="time was over"):
                fault.cause()
            fault.undo()
        assert "T" not in {state(each) for each in (pid, *stubs)}


def test_what_the_guard_cannot_undo_is_undone_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(guard: Guard) -> None:
        release(guard)
        for each in (pid, *stubs):
            os.kill(each, signal.SIGSTOP)
        raise Rejected("not undone: SIGCONT")

    release = Guard.release
    monkeypatch.setattr(Guard, "release", fails)
    with server(tmp_path) as (port, pid, stubs):
        fault = PreparedFault(Fault.FREEZE, HOST, port)
        fault.arm(LONG)
        fault.cause()
        with pytest.raises(Rejected, match="not undone"):
            fault.undo()
        becomes(lambda: "T" not in {state(each) for each in (pid, *stubs)}, "all are thawed")


def test_an_undo_waits_for_the_guard_that_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Guard):
        def __init__(self, *, thaw: list[int], within: float) -> None:
            undoing.start()
            undoing.join(0.2)
            super().__init__(thaw=thaw, within=within)
            armed.append(self)

    armed: list[Guard] = []
    monkeypatch.setattr(triton_faults, "Guard", Slow)
    with server(tmp_path) as (port, *_):
        fault = PreparedFault(Fault.FREEZE, HOST, port)
        undoing = threading.Thread(target=fault.undo)
        fault.arm(LONG)
        undoing.join()
        assert armed[0].fired
        with pytest.raises(Rejected, match="undone"):
            fault.arm(LONG)


@contextmanager
def many_descriptors() -> Iterator[None]:
    """Descriptors from 1024 on are the next free ones."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    opened = [os.open(os.devnull, os.O_RDONLY)]
    try:
        while opened[-1] < 1024:
            opened.append(os.dup(opened[0]))
        yield
    finally:
        for each in opened:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_process_with_many_descriptors_causes_and_undoes_faults(tmp_path: Path) -> None:
    with server(tmp_path) as (port, pid, stubs), many_descriptors():
        fault = PreparedFault(Fault.FREEZE, HOST, port)
        fault.arm(LONG)
        fault.cause()
        becomes(lambda: {state(each) for each in (pid, *stubs)} == {"T"}, "all are frozen")
        fault.undo()
        assert "T" not in {state(each) for each in (pid, *stubs)}


def test_a_process_without_free_descriptors_injects_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(pid: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pidfd_open", fails)
    with server(tmp_path) as (port, *_), pytest.raises(Unavailable):
        PreparedFault(Fault.FREEZE, HOST, port)
