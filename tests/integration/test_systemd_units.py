"""The shipped units on a real systemd: each row of the table in docs/systemd.md, in both forms.

Triton and the sidecar are stand-ins that start, notify and end as they are told; what is tried is
the units.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.systemd import root
from tests.systemd.machine import Machine, booted

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
EVENTS = "/dev/shm/events"  # of the machine
LIMITED = "[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=2\n[Service]\nRestartSec=0\n"
SHORT = "[Service]\nTimeoutStopSec=1\n"


@dataclass(frozen=True)
class Row:
    """What a line of the table says."""

    event: str
    triton: str
    sidecar: str
    withdrawn_first: bool


def table() -> dict[str, Row]:
    lines = re.findall(r"(?m)^\| (.*) \|$", (ROOT / "docs/systemd.md").read_text())
    cells = [[cell.strip() for cell in line.split("|")] for line in lines[1:]]
    return {
        event: Row(event, triton, sidecar, first == "yes")
        for event, triton, sidecar, first in cells
    }


class Instance:
    """A Triton and its sidecar on a machine, in one of the two forms."""

    def __init__(self, machine: Machine, form: str) -> None:
        self.machine = machine
        suffix = "@0" if form == "template" else ""
        self._name = "0" if form == "template" else "one"
        self.triton, self.sidecar = (
            f"tritonserver{suffix}.service",
            f"triton-sidecar{suffix}.service",
        )
        self.target = "triton@0.target"
        self.marker = f"/run/triton-sidecar/{'0' if form == 'template' else 'main'}/recovering"

    def systemctl(self, *argv: str, check: bool = True) -> None:
        self.machine.run("systemctl", *argv, check=check)

    def signal(self, unit: str, name: str) -> None:
        """As somebody else would: systemd does not know."""
        self.machine.run("kill", f"-{name}", self.pid(unit))

    def tell(self, unit: str, what: str, value: str) -> None:
        who = "triton" if unit == self.triton else "sidecar"
        self.machine.write(f"{EVENTS}/{who}.{self._name}.{what}", value)

    def drop_in(self, unit: str, text: str) -> None:
        self.machine.write(f"/run/systemd/system/{unit}.d/test.conf", text)
        self.systemctl("daemon-reload")

    def pid(self, unit: str) -> str:
        """Of the running service; empty if it doesn't run."""
        state, pid = self.machine.show(unit, "ActiveState", "MainPID")
        return pid if state == "active" else ""

    def became(self, unit: str, before: str) -> str:
        """What the table calls it."""
        now = self.pid(unit)
        if not now:
            return "down"
        return "up" if not before else "same" if now == before else "again"

    def history(self) -> list[str]:
        lines = self.machine.read(f"{EVENTS}/log").splitlines()
        return [line.replace(f".{self._name} ", " ") for line in lines if f".{self._name} " in line]

    def reset(self) -> None:
        """Both run, undisturbed, and nothing is told to them."""
        units = (self.triton, self.sidecar)
        for unit in units:
            self.machine.run("rm", "-rf", f"/run/systemd/system/{unit}.d")
        self.machine.run("sh", "-c", f"rm -f {EVENTS}/*.{self._name}.* {self.marker}")
        self.systemctl("unmask", *units)
        self.systemctl("daemon-reload")
        self.systemctl("reset-failed")
        self.systemctl("start", *units)
        self.machine.settle()
        assert all(map(self.pid, units))
        self.machine.write(f"{EVENTS}/log", "")


def recover(of: Instance, *first: str) -> None:
    """What the sidecar does, but for the leave to do it."""
    of.machine.write(of.marker, "")
    if first:
        of.systemctl(*first)
    of.systemctl("restart", of.triton)
    of.machine.run("rm", of.marker)


def mistaken(of: Instance) -> None:
    of.tell(of.sidecar, "exit", "2")
    of.signal(of.sidecar, "KILL")
    of.machine.wait(
        "the mistake is noticed", lambda: of.machine.show(of.sidecar, "ExecMainStatus") == ["2"]
    )


def mended(of: Instance) -> None:
    of.machine.run("rm", f"{EVENTS}/sidecar.{of._name}.exit")
    of.systemctl("restart", of.triton)


def limited(of: Instance, unit: str) -> None:
    of.drop_in(unit, LIMITED)
    of.systemctl("reset-failed", unit)

    def killed() -> bool:
        if pid := of.pid(unit):
            of.machine.run("kill", "-KILL", pid, check=False)
        return of.machine.show(unit, "SubState") == ["failed"]

    of.machine.wait("the limit is hit", killed)


def outlasted(of: Instance) -> None:
    of.drop_in(of.sidecar, SHORT)
    of.tell(of.sidecar, "drain", "5")
    of.systemctl("stop", of.triton)


def masked(of: Instance, unit: str) -> None:
    of.systemctl("mask", unit)
    of.systemctl("stop", unit)


Event = Callable[[Instance], object]


def both(*events: Event) -> Event:
    """One after the other."""

    def happen(of: Instance) -> None:
        for event in events:
            event(of)

    return happen


# What happens, and what has to have happened before.
EVENT: dict[str, tuple[Event, Event | None]] = {
    "the machine boots": (lambda of: None, None),
    "Triton is killed, as by the kernel when memory runs out": (
        lambda of: of.signal(of.triton, "KILL"),
        None,
    ),
    "Triton exits with 0": (lambda of: of.signal(of.triton, "USR1"), None),
    "Triton exits with 1": (lambda of: of.signal(of.triton, "USR2"), None),
    "SIGTERM to Triton that is not systemd's": (lambda of: of.signal(of.triton, "TERM"), None),
    "Triton is restarted": (lambda of: of.systemctl("restart", of.triton), None),
    "Triton is stopped": (lambda of: of.systemctl("stop", of.triton), None),
    "Triton is started after a stop": (
        lambda of: of.systemctl("start", of.triton),
        lambda of: of.systemctl("stop", of.triton),
    ),
    "recovery restarts Triton": (recover, None),
    "recovery kills and restarts Triton": (
        lambda of: recover(of, "kill", "--signal=SIGKILL", of.triton),
        None,
    ),
    "the target is restarted": (lambda of: of.systemctl("restart", of.target), None),
    "the target is stopped": (lambda of: of.systemctl("stop", of.target), None),
    "the target is started after a stop": (
        lambda of: of.systemctl("start", of.target),
        lambda of: of.systemctl("stop", of.target),
    ),
    "the sidecar is killed": (lambda of: of.signal(of.sidecar, "KILL"), None),
    "SIGTERM to the sidecar that is not systemd's": (
        lambda of: of.signal(of.sidecar, "TERM"),
        None,
    ),
    "the sidecar's watchdog bites": (lambda of: of.signal(of.sidecar, "INT"), None),
    "the sidecar exits with 2, for a mistake": (mistaken, None),
    "Triton is restarted after the sidecar's mistake is mended": (mended, mistaken),
    "the sidecar is restarted": (lambda of: of.systemctl("restart", of.sidecar), None),
    "the sidecar is stopped": (lambda of: of.systemctl("stop", of.sidecar), None),
    "the sidecar is started after a stop": (
        lambda of: of.systemctl("start", of.sidecar),
        lambda of: of.systemctl("stop", of.sidecar),
    ),
    "Triton is killed while the sidecar is stopped": (
        lambda of: of.signal(of.triton, "KILL"),
        lambda of: of.systemctl("stop", of.sidecar),
    ),
    "the sidecar is masked and stopped, and Triton restarted": (
        both(lambda of: masked(of, of.sidecar), lambda of: of.systemctl("restart", of.triton)),
        None,
    ),
    "Triton is stopped and masked": (
        both(
            lambda of: of.systemctl("stop", of.triton), lambda of: of.systemctl("mask", of.triton)
        ),
        None,
    ),
    "Triton is masked, and only then stopped": (lambda of: masked(of, of.triton), None),
    "the sidecar is started while Triton is masked": (
        lambda of: of.systemctl("start", of.sidecar),
        both(
            lambda of: of.systemctl("stop", of.triton), lambda of: of.systemctl("mask", of.triton)
        ),
    ),
    "Triton hits a restart limit": (lambda of: limited(of, of.triton), None),
    "Triton is started after a restart limit": (
        both(
            lambda of: of.systemctl("reset-failed", of.triton),
            lambda of: of.systemctl("start", of.triton),
        ),
        lambda of: limited(of, of.triton),
    ),
    "the sidecar hits a restart limit": (lambda of: limited(of, of.sidecar), None),
    "the drain outlasts the sidecar's `TimeoutStopSec=`": (outlasted, None),
}


def files(folder: Path) -> Path:
    """What an admin has put on the machine: the units, enabled, and stand-ins for the programs."""
    # Not to /etc, where `systemctl mask` needs the place.
    system = folder / "usr/local/lib/systemd/system"
    shutil.copytree(ROOT / "deploy/systemd", system)
    wants = folder / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    for unit, file in (
        ("triton@0.target", "triton@.target"),
        *((f"{u}.service",) * 2 for u in ("tritonserver", "triton-sidecar")),
    ):
        (wants / unit).symlink_to(Path("/usr/local/lib/systemd/system", file))
    for program in ("usr/local/bin/triton-sidecar", "opt/tritonserver/bin/tritonserver"):
        (folder / program).parent.mkdir(parents=True)
        shutil.copy(ROOT / "tests/systemd/stand_in.py", folder / program)
        (folder / program).chmod(0o755)
    for name in ("0", "triton"):
        (folder / "etc/triton").mkdir(exist_ok=True)
        shutil.copy(ROOT / "deploy/config/triton-0.env", folder / f"etc/triton/{name}.env")
    (folder / "etc/triton-sidecar").mkdir()
    (folder / "etc/triton-sidecar/consul-token").write_text("token")
    return folder


@pytest.fixture(scope="module", params=root.SUITES)
def machine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("machine")
    with booted(root.provide(request.param), files(folder / "files"), folder / "console") as found:
        yield found


FORMS = ("template", "one")
CASES = [
    (event, form)
    for event in EVENT
    for form in FORMS
    if form == "template" or "the target" not in event
]


def test_every_row_of_the_table_is_tried() -> None:
    assert list(EVENT) == list(table())


@pytest.mark.parametrize(("event", "form"), CASES)
def test_what_happens_to_the_two(machine: Machine, event: str, form: str) -> None:
    of, expected = Instance(machine, form), table()[event]
    happens, before = EVENT[event]
    if event != "the machine boots":
        of.reset()
    if before:
        before(of)
        machine.settle()
        machine.write(f"{EVENTS}/log", "")
    pids = {
        unit: "" if event == "the machine boots" else of.pid(unit)
        for unit in (of.triton, of.sidecar)
    }
    happens(of)

    def outcome() -> tuple[str, str]:
        machine.settle()
        return of.became(of.triton, pids[of.triton]), of.became(of.sidecar, pids[of.sidecar])

    wanted = (expected.triton, expected.sidecar)
    machine.wait(f"{event}: {wanted}", lambda: outcome() == wanted)
    history = of.history()
    if expected.withdrawn_first:
        assert history.index("sidecar stopped") < history.index("triton stops"), history
    else:
        # Nor is the sidecar stopped where the table does not say so.
        assert "sidecar stopped" not in history or "the sidecar" in event, history


@pytest.mark.parametrize("form", FORMS)
def test_a_reload_that_would_be_refused_fails(machine: Machine, form: str) -> None:
    of = Instance(machine, form)
    of.reset()
    pid = of.pid(of.sidecar)
    of.systemctl("reload", of.sidecar)
    machine.wait("the settings are read", lambda: of.history() == ["sidecar reloads"])
    of.tell(of.sidecar, "exit", "2")
    with pytest.raises(AssertionError, match=r"systemctl reload .*: ended with 1"):
        of.systemctl("reload", of.sidecar)
    assert of.history() == ["sidecar reloads"]
    assert of.pid(of.sidecar) == pid


@pytest.mark.parametrize("form", FORMS)
def test_the_sidecar_sees_gpus_and_no_other_devices(machine: Machine, form: str) -> None:
    """PrivateDevices= would hide them, and NVML would find none."""
    of = Instance(machine, form)
    of.reset()
    of.systemctl("restart", of.sidecar)
    assert of.history()[-1] == "sidecar starts and opens nvidiactl"
