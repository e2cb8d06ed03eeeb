"""Events of a Triton and its sidecar: one for each row of the table in docs/systemd.md."""

import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.support.systemd import memory
from tests.support.systemd.instance import Instance, Seen

ROOT = Path(__file__).parents[3]
_LIMITED = "[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=3\n[Service]\nRestartSec=0\n"
_SHORT = "[Service]\nTimeoutStopSec=1\n"
# How many instances have an event at the same time.
_HANDS = 6

Action = Callable[[Instance], object]


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    event: str
    triton: str
    sidecar: str
    withdrawn_first: bool

    def agrees(self, seen: Seen) -> bool:
        """Whether the outcome is the one in this row."""
        return (self.triton, self.sidecar) == (seen.triton, seen.sidecar)


def table() -> dict[str, Row]:
    """The table of docs/systemd.md, by event."""
    page = (ROOT / "docs/systemd.md").read_text()
    section = page.partition("\n## What happens to the two\n")[2].partition("\n## ")[0]
    lines = re.findall(r"(?m)^\| (.*) \|$", section)
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    return {
        row[0]: Row(row[0], row[1], row[2], row[3] == "yes")
        for row in cells
        if len(row) == 4 and row[0] != "event"
    }


@dataclass(frozen=True)
class Event:
    """An event, its preparation, and drop-ins for either unit."""

    happens: Action
    before: Action | None = None
    triton: str = ""
    sidecar: str = ""


def recover(of: Instance, *first: str) -> None:
    """Recover as the sidecar does, without asking for permission."""
    of.machine.write(of.marker, "")
    if first:
        of.systemctl(*first)
    of.systemctl("restart", of.triton)
    of.machine.run("rm", "-f", of.marker)


def _nothing(of: Instance) -> None:
    pass


def _mistaken(of: Instance) -> None:
    of.control(of.sidecar, "exit", "2")
    of.signal(of.sidecar, "KILL")
    of.machine.wait(
        "the mistake is noticed", lambda: of.machine.show(of.sidecar, "ExecMainStatus") == ["2"]
    )


def _repaired(of: Instance) -> None:
    of.forget(of.sidecar, "exit")
    of.systemctl("restart", of.triton)


def _limited(of: Instance, unit: str) -> None:
    def killed() -> bool:
        found = of.machine.units(unit)[unit]
        if found.pid:
            of.machine.run("kill", "-KILL", found.pid, check=False)
        return found.state == "failed"

    of.machine.wait("the limit is hit", killed)


def _outlasted(of: Instance) -> None:
    of.control(of.sidecar, "drain", "5")
    of.systemctl("stop", of.triton)


def _restarted_together(of: Instance) -> None:
    # This fails: Triton's ExecStop= cancels the sidecar's part of the job, and starts its own.
    of.machine.run("systemctl", "restart", of.triton, of.sidecar, check=False)


def _all(*actions: Action) -> Action:
    """Run these in order."""

    def happen(of: Instance) -> None:
        for action in actions:
            action(of)

    return happen


def _triton(*verbs: str) -> Action:
    return _all(*(lambda of, verb=verb: of.systemctl(verb, of.triton) for verb in verbs))


def _sidecar(*verbs: str) -> Action:
    return _all(*(lambda of, verb=verb: of.systemctl(verb, of.sidecar) for verb in verbs))


def _target(verb: str) -> Action:
    return lambda of: of.systemctl(verb, of.target)


def _signal(program: str, name: str) -> Action:
    return lambda of: of.signal(of.triton if program == "triton" else of.sidecar, name)


BOOT = "the machine boots"
EVENTS: Mapping[str, Event] = {
    BOOT: Event(_nothing),
    "Triton is killed": Event(_signal("triton", "KILL")),
    "Triton is OOM-killed": Event(lambda of: memory.kill(of.machine, of.triton, "oom-kill")),
    "a stub of Triton is OOM-killed": Event(lambda of: memory.kill_child(of.machine, of.triton)),
    "Triton exits with 0": Event(_signal("triton", "USR1")),
    "Triton exits with 1": Event(_signal("triton", "USR2")),
    "SIGTERM to Triton, not sent by systemd": Event(_signal("triton", "TERM")),
    "Triton is restarted": Event(_triton("restart")),
    "the two are restarted in one call": Event(_restarted_together),
    "Triton is stopped": Event(_triton("stop")),
    "Triton is started after a stop": Event(_triton("start"), _triton("stop")),
    "recovery restarts Triton": Event(recover),
    "recovery kills and restarts Triton": Event(
        lambda of: recover(of, "kill", "--signal=SIGKILL", of.triton)
    ),
    "the target is restarted": Event(_target("restart")),
    "the target is stopped": Event(_target("stop")),
    "the target is started after a stop": Event(_target("start"), _target("stop")),
    "the sidecar is killed": Event(_signal("sidecar", "KILL")),
    "the sidecar is OOM-killed": Event(lambda of: memory.kill(of.machine, of.sidecar, "signal")),
    "a program that the sidecar runs is OOM-killed": Event(
        lambda of: memory.kill_child(of.machine, of.sidecar)
    ),
    "SIGTERM to the sidecar, not sent by systemd": Event(_signal("sidecar", "TERM")),
    "the sidecar's watchdog fires": Event(_signal("sidecar", "INT")),
    "the sidecar exits with 2, for an error in its settings": Event(_mistaken),
    "Triton is restarted after the error in the sidecar's settings is fixed": Event(
        _repaired, _mistaken
    ),
    "the sidecar is restarted": Event(_sidecar("restart")),
    "the sidecar is stopped": Event(_sidecar("stop")),
    "the sidecar is started after a stop": Event(_sidecar("start"), _sidecar("stop")),
    "Triton is killed while the sidecar is stopped": Event(
        _signal("triton", "KILL"), _sidecar("stop")
    ),
    "the sidecar is masked and stopped, and Triton restarted": Event(
        _all(_sidecar("mask", "stop"), _triton("restart"))
    ),
    "Triton is stopped and masked": Event(_triton("stop", "mask")),
    "Triton is masked, and only then stopped": Event(_triton("mask", "stop")),
    "the sidecar is started while Triton is masked": Event(
        _sidecar("start"), _triton("stop", "mask")
    ),
    "Triton hits a restart limit": Event(lambda of: _limited(of, of.triton), triton=_LIMITED),
    "Triton is started after a restart limit": Event(
        _triton("reset-failed", "start"), lambda of: _limited(of, of.triton), triton=_LIMITED
    ),
    "the sidecar hits a restart limit": Event(
        lambda of: _limited(of, of.sidecar), sidecar=_LIMITED
    ),
    "the drain outlasts the sidecar's `TimeoutStopSec=`": Event(_outlasted, sidecar=_SHORT),
}


def happen(event: str, of: Instance) -> None:
    """Cause the event on an undisturbed instance, after noting its state."""
    if before := EVENTS[event].before:
        before(of)
    of.settle()
    of.look()
    EVENTS[event].happens(of)


def happen_to_all(instances: Mapping[str, Instance]) -> None:
    """Cause each event on its own instance, several at the same time."""
    with ThreadPoolExecutor(_HANDS) as hands:
        list(hands.map(happen, instances, instances.values()))


def check(event: str, of: Instance) -> None:
    """Wait for the outcome in the table.

    Raises:
        AssertionError: the outcome, or the way to it, is another one.
    """
    row = table()[event]
    of.machine.wait(
        f"{event}: Triton {row.triton}, sidecar {row.sidecar}",
        lambda: of.settled() and row.agrees(of.seen()),
    )
    history = of.history()
    if row.withdrawn_first:
        assert history.index("sidecar stopped") < history.index("triton stops"), history
    else:
        # The sidecar is not stopped either, unless the table says so.
        assert "sidecar stopped" not in history or "the sidecar" in event, history
