"""Identities of processes: reused pids, zombies, and the mark of a mesh."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

from sidecar.local.processes import identity

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_an_identity_is_alive_until_its_process_dies() -> None:
    child = subprocess.Popen(SLEEP)
    found = identity.identify(child.pid)
    assert found is not None
    assert identity.alive(found)
    assert identity.send(found, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not identity.alive(found)  # a zombie is dead
    child.wait()
    assert identity.identify(child.pid) is None
    assert not identity.send(found, signal.SIGKILL)


def test_a_reused_pid_is_never_signalled() -> None:
    child = subprocess.Popen(SLEEP)
    try:
        found = identity.identify(child.pid)
        assert found is not None
        earlier = dataclasses.replace(found, start=found.start - 1)
        assert not identity.alive(earlier)
        assert not identity.send(earlier, signal.SIGKILL)
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()


def test_process_names_with_parentheses_and_spaces(tmp_path: Path) -> None:
    odd = tmp_path / "a) S (b"
    odd.symlink_to(sys.executable)
    child = subprocess.Popen([odd, *SLEEP[1:]])
    try:
        found = identity.identify(child.pid)
        own = identity.identify(os.getpid())
        assert found is not None
        assert own is not None
        assert found.start >= own.start
    finally:
        child.kill()
        child.wait()


def test_the_mark_finds_processes_that_were_not_recorded() -> None:
    children = [
        subprocess.Popen(SLEEP, env={**os.environ, identity.MARK: name}) for name in ("me", "mess")
    ]
    try:
        while not (seen := {found.pid for found in identity.marked("me")}):
            pass  # between fork and exec it still has this process's environment
        assert seen == {children[0].pid}
    finally:
        for child in children:
            child.kill()
            child.wait()
