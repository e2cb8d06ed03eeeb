"""A machine that runs systemd and its services, with access to its console."""

import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from sidecar.runtime.errors import PartMissing
from tests.support.systemd.journal import Journal

_BOOT = Path(__file__).with_name("boot.sh")
# Seconds after which a step has failed. No outcome depends on it.
_PATIENCE = 120.0
# Seconds until all services have stopped, each within its own limits.
_PATIENCE_TO_END = 300.0

# systemctl's value for no job.
_NONE = ("", "0")


@dataclass(frozen=True)
class Unit:
    """A unit's state in systemd; `waits` is whether it has a job."""

    state: str
    main_pid: str
    waits: bool

    @property
    def pid(self) -> str:
        """The main pid of the service; empty if it is not running."""
        return self.main_pid if self.state == "active" else ""

    @property
    def busy(self) -> bool:
        """Whether systemd has a job or a scheduled restart for it."""
        return self.waits or self.state in ("activating", "deactivating", "reloading")


class Machine:
    """A booted machine; `systemd` is the pid of its PID 1 in the caller's namespace."""

    def __init__(self, systemd: int) -> None:
        self._enter = ("nsenter", "--target", str(systemd), "--all", "--root", "--wd")
        # Prefix of a command of this machine's that runs it in the booted machine's network.
        self.network = ("nsenter", "--target", str(systemd), "--net")

        self._systemd = systemd

    def run(self, *argv: str, given: str = "", check: bool = True) -> str:
        """Run a program in the machine as root; returns its output."""
        done = subprocess.run(
            [*self._enter, "env", "-i", "PATH=/usr/bin:/usr/sbin", *argv],
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=_PATIENCE,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(argv)}: ended with {done.returncode}: {done.stdout}")
        return done.stdout.strip()

    def write(self, path: str, text: str) -> None:
        """Write a world-writable file in the machine, and create its folder."""
        script = 'mkdir -p "${1%/*}" && cat >"$1" && chmod a+rwX "$1"'
        self.run("sh", "-c", script, "sh", path, given=text)

    def read(self, path: str) -> str:
        """The content of a file in the machine."""
        return self.run("cat", path)

    def show(self, unit: str, *names: str) -> list[str]:
        """Properties of a unit, in the order of `names`."""
        lines = self.run("systemctl", "show", "--property", ",".join(names), unit).splitlines()
        found = dict(line.split("=", 1) for line in lines if "=" in line)
        return [found[name] for name in names]

    def wait(self, what: str, holds: Callable[[], object], patience: float = _PATIENCE) -> None:
        """Wait until a condition holds, for so many seconds at most.

        Raises:
            AssertionError: it does not within the deadline.
        """
        deadline = time.monotonic() + patience
        while not holds():
            if time.monotonic() > deadline:
                state = self.run("systemctl", "list-units", "--all", "--no-pager", "triton*")
                journal = self.run("journalctl", "--no-pager", "--lines=40")
                raise AssertionError(f"did not come about: {what}\n{state}\n{journal}")
            time.sleep(0.1)

    def power_off(self) -> Journal:
        """Power the machine off and wait for that; returns the journal of the shutdown.

        At the end systemd stops (SIGSTOP) and kills every process that it sees, and `nsenter` stops
        with the process that it started there. So we run nothing there, and read the journal later.
        """
        self.run("sh", "-c", "mkdir -p /var/log/journal && journalctl --flush")
        since = self.run("date", "+@%s")
        root = os.open(f"/proc/{self._systemd}/root", os.O_RDONLY | os.O_DIRECTORY)
        systemd = os.pidfd_open(self._systemd)
        try:
            self.run("systemctl", "--no-block", "poweroff")
            if not select.select([systemd], [], [], _PATIENCE_TO_END)[0]:
                raise AssertionError("the machine did not end")
            program = ("journalctl", "--quiet", "--output=json", f"--since={since}")
            said = subprocess.run(
                ["chroot", f"/proc/self/fd/{root}", *program, "--directory=/var/log/journal"],
                stdout=subprocess.PIPE,
                check=True,
                pass_fds=[root],
            )
        finally:
            os.close(root)
            os.close(systemd)
        return Journal.read(said.stdout)

    def units(self, *units: str) -> dict[str, Unit]:
        """The states of all units, at one time."""
        wanted = "Id,ActiveState,MainPID,Job"
        said = self.run("systemctl", "show", "--property", wanted, *units)
        blocks = (dict(line.split("=", 1) for line in b.splitlines()) for b in said.split("\n\n"))
        return {
            each["Id"]: Unit(each["ActiveState"], each["MainPID"], each.get("Job", "") not in _NONE)
            for each in blocks
        }


@contextmanager
def booted(
    root: Path, files: Path, console: Path, shown: Mapping[str, Path] = MappingProxyType({})
) -> Iterator[Machine]:
    """Boot `root` with `files` as an overlay; the machine ends with the context.

    `shown` are files and folders of this machine, by the path in `files` at which they are mounted.

    Raises:
        PartMissing: namespaces cannot be created here; says what is required.
    """
    if os.geteuid():
        raise PartMissing("systemd: its tests boot a machine in namespaces: run them as root")
    mounts = [word for place, path in shown.items() for word in (str(path), place)]
    with subprocess.Popen(
        [str(_BOOT), f"{files}:{root}", str(console), *mounts],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as boot:
        assert boot.stdin
        assert boot.stdout
        assert boot.stderr
        pid = boot.stdout.readline()
        if not pid:
            raise PartMissing(
                f"systemd: cannot be booted: {boot.stderr.read().strip() or console.read_text()}\n"
                "  It needs util-linux, and a root that may mount and make namespaces and cgroups."
            )
        try:
            machine = Machine(int(pid))
            machine.wait("systemd is up", lambda: _is_up(machine))
            yield machine
        finally:
            boot.stdin.close()
            boot.wait()


def _is_up(machine: Machine) -> bool:
    said = machine.run("systemctl", "is-system-running", check=False)
    return said.splitlines()[-1:] in (["running"], ["degraded"])
