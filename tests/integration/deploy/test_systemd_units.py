"""The units of deploy/systemd on a real systemd: each row of the table in docs/systemd.md.

Triton and the sidecar are stand-ins that start, notify and exit on command; only the units are
under test. The machine of each systemd has an instance for each row, and all events happen at the
same time. `make test-systemd` also runs each row for the units without `@`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.support.soak import soak
from tests.support.systemd import memory, root
from tests.support.systemd.events import BOOT, EVENTS, ROOT, check, happen_to_all, table
from tests.support.systemd.files import DOWN, EDGE, lay
from tests.support.systemd.instance import EVENTS as FOLDER
from tests.support.systemd.instance import ONE, Instance
from tests.support.systemd.machine import Machine, booted

# The timeout covers the fixture, where all events happen, on a shared machine.
pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

# Instances are named after numbers, as they are where each has a GPU.
NAMES = {event: str(number) for number, event in enumerate(EVENTS)}
SPARE = str(len(NAMES))


@dataclass(frozen=True)
class Scene:
    """A machine where each event has happened to its own instance, and one spare instance."""

    suite: str
    machine: Machine
    instances: dict[str, Instance]
    spare: Instance


@pytest.fixture(scope="module", params=["bookworm", pytest.param("trixie", marks=soak)])
def scene(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("machine")
    settings = {}
    for event, name in NAMES.items():
        settings[f"tritonserver@{name}.service"] = EVENTS[event].triton
        settings[f"triton-sidecar@{name}.service"] = EVENTS[event].sidecar
    given = {unit: text for unit, text in settings.items() if text}
    files = lay(folder / "files", (*NAMES.values(), SPARE, ONE), given)
    with booted(root.provide(request.param), files, folder / "console") as machine:
        instances = {event: Instance(machine, name) for event, name in NAMES.items()}
        happen_to_all({event: pair for event, pair in instances.items() if event != BOOT})
        yield Scene(request.param, machine, instances, Instance(machine, SPARE))


def test_every_version_of_systemd_is_tested() -> None:
    """`make test` runs the older one; `make test-soak` and `make test-systemd` run both."""
    assert list(root.SUITES) == ["bookworm", "trixie"]


def test_every_row_of_the_table_is_tested() -> None:
    assert list(EVENTS) == list(table())


def test_the_machine_runs_the_systemd_that_the_page_names(scene: Scene) -> None:
    said = scene.machine.run("systemctl", "--version")
    assert said.startswith(f"systemd {root.SUITES[scene.suite]} ")
    assert f" {root.SUITES[scene.suite]} (Debian " in (ROOT / "docs/systemd.md").read_text()


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_has_the_effects_in_the_table(scene: Scene, event: str) -> None:
    check(event, scene.instances[event])


def test_the_units_without_instances_behave_like_the_templates(scene: Scene) -> None:
    """The two forms differ only in unit names, and these events use each of them."""
    pair = Instance(scene.machine, ONE)
    check(BOOT, pair)
    for event in ("Triton is restarted", "recovery restarts Triton", "Triton is stopped"):
        pair.look()
        EVENTS[event].happens(pair)
        check(event, pair)


def test_a_reload_with_invalid_settings_fails_and_changes_nothing(scene: Scene) -> None:
    pair = scene.spare
    pair.look()
    pid = pair.pid(pair.sidecar)
    pair.systemctl("reload", pair.sidecar)
    scene.machine.wait("the settings are read", lambda: pair.history() == ("sidecar reloads",))
    pair.control(pair.sidecar, "exit", "2")
    with pytest.raises(AssertionError, match=r"systemctl reload .*: ended with 1"):
        pair.systemctl("reload", pair.sidecar)
    pair.forget(pair.sidecar, "exit")
    assert pair.history() == ("sidecar reloads",)
    assert pair.pid(pair.sidecar) == pid


def test_shared_memory_of_a_killed_triton_is_removed(scene: Scene) -> None:
    """Regions are matched by the whole name: another instance may be `1` where this one is `10`."""
    pair, machine = scene.spare, scene.machine
    left, foreign = (f"/dev/shm/triton_{pair.name}{more}_left" for more in ("", "0"))
    machine.write(left, "of a stub")
    machine.write(foreign, "of another")
    before = pair.pid(pair.triton)
    pair.signal(pair.triton, "KILL")
    machine.wait("Triton is back", lambda: pair.pid(pair.triton) not in ("", before))
    assert machine.run("ls", "/dev/shm").split() == ["events", foreign.rpartition("/")[2]]
    pair.settle()


def test_the_sidecar_can_open_gpus_and_no_other_devices(scene: Scene) -> None:
    """PrivateDevices= would hide the GPUs from NVML."""
    pair = scene.spare
    pair.look()
    pair.systemctl("restart", pair.sidecar)
    assert pair.history()[-1] == "sidecar starts and opens nvidiactl"


def test_the_state_after_each_event_is_stable(scene: Scene) -> None:
    for event, pair in scene.instances.items():
        check(event, pair)


def logged(machine: Machine) -> list[str]:
    """The lines that all stand-ins have logged, in order."""
    return [line.rstrip() for line in machine.read(f"{FOLDER}/log").splitlines()]


def test_a_restart_of_envoy_drains_it_first(scene: Scene) -> None:
    machine, before = scene.machine, len(logged(scene.machine))
    machine.run("systemctl", "restart", "envoy")
    starts = "envoy.edge starts and opens"
    machine.wait("Envoy is back", lambda: starts in logged(machine)[before:])
    assert [line for line in logged(machine)[before:] if "edge" in line] == [
        *("plane.edge has Envoy drain", "plane.edge has had Envoy drain"),
        *("envoy.edge stops", "envoy.edge stopped", starts),
    ]


@pytest.mark.parametrize(
    "kill",
    [
        lambda machine: machine.run("systemctl", "kill", "--signal=KILL", "envoy"),
        lambda machine: memory.kill(machine, "envoy.service", "signal"),
    ],
    ids=["killed", "out-of-memory"],
)
def test_a_crashed_envoy_is_not_drained(scene: Scene, kill: Callable[[Machine], object]) -> None:
    before = len(logged(scene.machine))
    kill(scene.machine)
    starts = "envoy.edge starts and opens"
    scene.machine.wait("Envoy is back", lambda: starts in logged(scene.machine)[before:])
    assert not [line for line in logged(scene.machine)[before:] if "drain" in line]


def test_a_unit_stops_before_those_that_it_depends_on(scene: Scene) -> None:
    """This has to be the last test, because it stops everything on the machine."""
    machine, pair = scene.machine, scene.spare
    machine.run("systemctl", "start", pair.target, *EDGE)
    pair.settle()
    before = len(logged(machine))
    machine.run("systemctl", "isolate", DOWN)
    machine.wait("all have stopped", lambda: "consul.edge stopped" in logged(machine)[before:])
    said = logged(machine)[before:]
    order = [said.index(f"sidecar.{pair.name} stopped"), said.index("plane.edge has Envoy drain")]
    assert order[0] < said.index(f"triton.{pair.name} stops")
    order += [
        said.index(f"{program}.edge {step}")
        for program in ("envoy", "plane", "consul")
        for step in ("stops", "stopped")
    ]
    assert order == sorted(order), said
