"""OOM kills of a service's processes, reported to systemd.

As systemd-oomd does it: it counts kills in attributes of the service's cgroup, which systemd
reads when a process of the service exits. systemd then acts as it does for the kernel's own kills,
which it reads from `memory.events`; a machine may lack that file, but not the attributes.
"""

from tests.support.systemd.machine import Machine

_OOMD = """
import os, signal, sys

cgroup, *pids = sys.argv[1:]
pids = pids or open(f"{cgroup}/cgroup.procs").read().split()

def count(name, number):
    try:
        before = int(os.getxattr(cgroup, name))
    except OSError:
        before = 0
    os.setxattr(cgroup, name, str(before + number).encode())

count("user.oomd_ooms", 1)
for pid in pids:
    os.kill(int(pid), signal.SIGKILL)
try:
    count("user.oomd_kill", len(pids))
except FileNotFoundError:
    pass  # systemd was faster, and has removed the cgroup
"""
# A child of systemd in the cgroup; systemd would not notice the end of another process.
_CHILD = 'sleep infinity </dev/null >/dev/null 2>&1 & echo $! | tee "$1/cgroup.procs"'
# Message ids of `journalctl --catalog`: an OOM kill; a failed unit.
_LEARNED = "MESSAGE_ID=d989611b15e44c9dbf31e3c81256e4ed"
_FAILED = "MESSAGE_ID=d9b373ed55a64feb8242e02dbe79a49c"


def kill(machine: Machine, unit: str, result: str) -> None:
    """Kill all processes of a service; `result` is the unit's expected result."""
    _kill(machine, unit)
    _said(machine, unit, _FAILED, f"UNIT_RESULT={result}")


def kill_child(machine: Machine, unit: str) -> None:
    """Kill a child process of the service, and no other."""
    _kill(machine, unit, machine.run("sh", "-c", _CHILD, "sh", _cgroup(machine, unit)))


def _kill(machine: Machine, unit: str, *pids: str) -> None:
    machine.run("python3", "-SEc", _OOMD, _cgroup(machine, unit), *pids)
    _said(machine, unit, _LEARNED)


def _cgroup(machine: Machine, unit: str) -> str:
    return f"/sys/fs/cgroup{machine.show(unit, 'ControlGroup')[0]}"


def _said(machine: Machine, unit: str, *fields: str) -> None:
    query = ("journalctl", "--quiet", "--output=cat", f"UNIT={unit}", *fields)
    machine.wait(f"{unit}: {' '.join(fields)}", lambda: machine.run(*query, check=False))
