"""Processes that hold something, with real ones."""

import os
import select
import subprocess
import sys

import pytest

from sidecar.drill.cluster import holder as holder_module
from sidecar.drill.cluster.holder import Holder
from sidecar.runtime.errors import Unavailable

_HOLDS_AND_SAYS = """
import sys, time
from sidecar.drill.cluster.holder import Holder
print(Holder(["cat"]).pid, flush=True)
time.sleep(600)
"""


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_runs_until_it_is_ended() -> None:
    holder = Holder(["sh", "-c", "echo well >&2; exec cat"])
    assert runs(holder.pid)
    assert holder.end() == "well"
    assert not runs(holder.pid)


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        (["sh", "-c", "echo no permission >&2; exit 1"], "no permission"),
        (["/no/such/program"], "/no/such/program"),
        (["true"], "."),
        (["yes"], "."),
    ],
)
def test_what_cannot_be_held_is_reported(command: list[str], complaint: str) -> None:
    with pytest.raises(Unavailable, match=complaint):
        Holder(command)


def test_one_that_does_not_end_by_itself_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holder_module, "_PATIENCE", 0.1)
    holder = Holder(["sh", "-c", "read line; echo; exec sleep 600"])
    holder.end()
    assert not runs(holder.pid)


def test_it_ends_with_the_process_that_started_it() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDS_AND_SAYS], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        held = os.pidfd_open(pid)
        parent.kill()
    assert select.select([held], [], [], 60)[0]  # it has ended
    os.close(held)
