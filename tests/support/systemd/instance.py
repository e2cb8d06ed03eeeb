"""A Triton and its sidecar on a machine, in one of the two forms of the units."""

from collections.abc import Mapping
from dataclasses import dataclass

from tests.support.systemd.machine import Machine

EVENTS = "/dev/shm/events"  # of the machine
ONE = "one"


@dataclass(frozen=True)
class Seen:
    """The outcome for both units, in the terms of docs/systemd.md, and their log."""

    triton: str
    sidecar: str
    history: tuple[str, ...]


class Instance:
    """`name` is the part of the unit names after `@`, or ONE for the units without a template."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.machine = machine
        self.name = name
        suffix = "" if name == ONE else f"@{name}"
        self.triton = f"tritonserver{suffix}.service"
        self.sidecar = f"triton-sidecar{suffix}.service"
        self.target = f"triton@{name}.target"
        self.marker = f"/run/triton-sidecar/{'main' if name == ONE else name}/recovering"
        self._pids: Mapping[str, str] = {}
        self._read = 0

    def systemctl(self, *argv: str) -> None:
        """Run systemctl; raises if it fails."""
        self.machine.run("systemctl", *argv)

    def signal(self, unit: str, name: str) -> None:
        """Send a signal from outside, so that systemd has not requested it."""
        self.machine.run("kill", f"-{name}", self.pid(unit))

    def control(self, unit: str, what: str, value: str) -> None:
        """Configure a stand-in (tests/support/systemd/stand_in.py)."""
        program = "triton" if unit == self.triton else "sidecar"
        self.machine.write(f"{EVENTS}/{program}.{self.name}.{what}", value)

    def forget(self, unit: str, what: str) -> None:
        """Undo `control`."""
        program = "triton" if unit == self.triton else "sidecar"
        self.machine.run("rm", f"{EVENTS}/{program}.{self.name}.{what}")

    def pid(self, unit: str) -> str:
        """The main pid of the service; empty if it is not running."""
        return self.machine.units(unit)[unit].pid

    def history(self) -> tuple[str, ...]:
        """The events that the two logged since the last `look`."""
        mine = f".{self.name} "
        lines = self.machine.read(f"{EVENTS}/log").splitlines()[self._read :]
        return tuple(line.replace(mine, " ") for line in lines if mine in line)

    def look(self) -> None:
        """Note the state of the two units, with which `seen` compares."""
        self._pids = {unit: self.pid(unit) for unit in (self.triton, self.sidecar)}
        self._read = len(self.machine.read(f"{EVENTS}/log").splitlines())

    def settled(self) -> bool:
        """Whether systemd has no job or scheduled restart for the two units."""
        found = self.machine.units(self.triton, self.sidecar)
        return not any(each.busy for each in found.values())

    def settle(self) -> None:
        """Wait until `settled`."""
        self.machine.wait(f"{self.name} has settled", self.settled)

    def seen(self) -> Seen:
        """The outcome for the two units since `look`."""
        found = self.machine.units(self.triton, self.sidecar)
        triton, sidecar = (self._became(u, found[u].pid) for u in (self.triton, self.sidecar))
        return Seen(triton, sidecar, self.history())

    def _became(self, unit: str, now: str) -> str:
        before = self._pids.get(unit, "")
        if not now:
            return "down"
        return "up" if not before else "same" if now == before else "again"

    def reset(self, settings: Mapping[str, str]) -> None:
        """Restart both units with only these settings, by unit."""
        units = (self.triton, self.sidecar)
        for unit in units:
            folder = f"/run/systemd/system/{unit}.d"
            self.machine.run("rm", "-rf", folder)
            if unit in settings:
                self.machine.write(f"{folder}/zz-event.conf", settings[unit])
        self.machine.run("sh", "-c", f"rm -f {EVENTS}/*.{self.name}.* {self.marker}")
        self.systemctl("unmask", *units)
        self.systemctl("daemon-reload")
        self.systemctl("stop", *units)
        self.systemctl("reset-failed")
        self.systemctl("start", *units)
        self.settle()
        assert all(map(self.pid, units))
