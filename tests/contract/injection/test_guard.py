"""The dead man's switch: real processes are frozen, and thawed whatever happens to its owner."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidecar.injection.guard import Guard, guard
from sidecar.runtime.errors import Rejected, Unavailable
from tests.support.frozen import becomes, sleeper, state

ROOT = Path(__file__).parents[3]
LONG = 600.0  # seconds, longer than any test
# Freezes the process of its first argument under a guard, says so, and waits.
_OWNER = """
import os, signal, sys, time
from sidecar.injection.guard import Guard
victim, within, file = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
handle = os.pidfd_open(victim)
armed = Guard([["sh", "-c", f"echo undone >> {file}"]], thaw=[handle], within=within)
signal.pidfd_send_signal(handle, signal.SIGSTOP)
print(armed.pid, flush=True)
time.sleep(600)
"""


@contextmanager
def owner(victim: int, within: float, file: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that has frozen a victim; it, and its guard's pid."""
    # Not as in a background job, where a shell or nohup has them ignored.
    python = ("env", "--default-signal=INT,HUP", sys.executable)
    command = [*python, "-c", _OWNER, str(victim), str(within), str(file)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout
        try:
            switch = int(process.stdout.readline())
            becomes(lambda: state(victim) == "T", "the victim is frozen")
            yield process, switch
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_the_end_of_the_owner_thaws_the_victim_once(number: signal.Signals, tmp_path: Path) -> None:
    file = tmp_path / "undone"
    with sleeper() as victim, owner(victim.pid, LONG, file) as (process, switch):
        os.killpg(process.pid, number)  # as a terminal does; the guard has a session of its own
        becomes(lambda: state(victim.pid) == "S", "the victim is thawed")
        becomes(lambda: not state(switch), "the guard ends")
        assert file.read_text() == "undone\n"


def test_a_frozen_owner_loses_the_fault_in_time(tmp_path: Path) -> None:
    file = tmp_path / "undone"
    with sleeper() as victim, owner(victim.pid, 0.5, file) as (process, _):
        os.kill(process.pid, signal.SIGSTOP)
        becomes(lambda: state(victim.pid) == "S", "the victim is thawed")
        becomes(lambda: file.exists() and file.read_text() == "undone\n", "the command has run")


def test_the_guard_of_a_stopped_unit_undoes_at_once(tmp_path: Path) -> None:
    """systemd sends SIGTERM to every process of a unit that it stops."""
    file = tmp_path / "undone"
    with sleeper() as victim, owner(victim.pid, LONG, file) as (_, switch):
        os.kill(switch, signal.SIGTERM)
        becomes(lambda: state(victim.pid) == "S", "the victim is thawed")
        becomes(lambda: file.exists(), "the command has run")


def test_the_release_undoes_everything_once(tmp_path: Path) -> None:
    file = tmp_path / "undone"
    command = ["sh", "-c", f"echo undone >> {file}"]
    with sleeper() as victim:
        handle = os.pidfd_open(victim.pid)
        with guard([command], thaw=[handle], within=LONG) as armed:
            signal.pidfd_send_signal(handle, signal.SIGSTOP)
            becomes(lambda: state(victim.pid) == "T", "the victim is frozen")
            assert not file.exists()
        assert state(victim.pid) == "S"
        armed.release()
        os.close(handle)
    assert file.read_text() == "undone\n"


def test_what_fails_is_reported_and_does_not_skip_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "undone"
    commands = [["false"], ["/no/such/program"], ["touch", str(file)]]
    armed = Guard(commands, within=LONG)
    with pytest.raises(Rejected, match=r"false.*no/such/program"):
        armed.release()
    assert file.exists()


def test_a_victim_that_has_ended_is_no_failure_and_its_pid_is_left_alone() -> None:
    """The pidfd names the process, not the number: whoever gets that is not signalled."""
    with sleeper() as victim:
        handle = os.pidfd_open(victim.pid)
        armed = Guard(thaw=[handle], within=LONG)
        victim.kill()
        victim.wait()
        armed.release()
        os.close(handle)


def test_the_owner_undoes_the_fault_if_the_guard_was_killed(tmp_path: Path) -> None:
    file = tmp_path / "undone"
    armed = Guard([["touch", str(file)]], within=LONG)
    os.kill(armed.pid, signal.SIGKILL)
    armed.release()
    assert file.exists()


def test_without_a_guard_nothing_is_injected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Unavailable, match="did not start"):
        Guard(within=LONG)


def test_the_time_runs_from_the_beginning(tmp_path: Path) -> None:
    file = tmp_path / "undone"
    armed = Guard([["touch", str(file)]], within=0.2)
    becomes(file.exists, "the time is over")
    time.sleep(0.05)
    armed.release()
