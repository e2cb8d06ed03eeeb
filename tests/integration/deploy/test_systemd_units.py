"""The shipped units on a real systemd: each row of the table in docs/systemd.md.

Triton and the sidecar are stand-ins that start, notify and end as they are told; what is tried is
the units. One machine of each version has an instance for each row, and all happens at the same
time. `make test-systemd` has the rest: each row for the form without `@`.
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

# One setup is all the waiting, for a machine that is shared.
pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

# Names are numbers, as where they are those of GPUs.
NAMES = {event: str(number) for number, event in enumerate(EVENTS)}
SPARE = str(len(NAMES))


@dataclass(frozen=True)
class Scene:
    """A machine on which each event has happened to an instance, and one more to try things on."""

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
        happen_to_all({event: of for event, of in instances.items() if event != BOOT})
        yield Scene(request.param, machine, instances, Instance(machine, SPARE))


def test_every_systemd_is_tried() -> None:
    """Here the one that knows less; both by `make soak` and `make test-systemd`."""
    assert list(root.SUITES) == ["bookworm", "trixie"]


def test_every_row_of_the_table_is_tried() -> None:
    assert list(EVENTS) == list(table())


def test_it_is_the_systemd_that_the_page_names(scene: Scene) -> None:
    said = scene.machine.run("systemctl", "--version")
    assert said.startswith(f"systemd {root.SUITES[scene.suite]} ")
    assert f" {root.SUITES[scene.suite]} (Debian " in (ROOT / "docs/systemd.md").read_text()


@pytest.mark.parametrize("event", EVENTS)
def test_what_happens_to_the_two(scene: Scene, event: str) -> None:
    check(event, scene.instances[event])


def test_the_form_without_instances_does_as_the_other(scene: Scene) -> None:
    """What the two have to themselves is names, and each is used in one of these."""
    of = Instance(scene.machine, ONE)
    check(BOOT, of)
    for event in ("Triton is restarted", "recovery restarts Triton", "Triton is stopped"):
        of.look()
        EVENTS[event].happens(of)
        check(event, of)


def test_a_reload_that_would_be_refused_fails(scene: Scene) -> None:
    of = scene.spare
    of.look()
    pid = of.pid(of.sidecar)
    of.systemctl("reload", of.sidecar)
    scene.machine.wait("the settings are read", lambda: of.history() == ("sidecar reloads",))
    of.tell(of.sidecar, "exit", "2")
    with pytest.raises(AssertionError, match=r"systemctl reload .*: ended with 1"):
        of.systemctl("reload", of.sidecar)
    of.forget(of.sidecar, "exit")
    assert of.history() == ("sidecar reloads",)
    assert of.pid(of.sidecar) == pid


def test_what_a_killed_triton_left_in_shared_memory_is_removed(scene: Scene) -> None:
    """By whose name it is, not by its user: another instance may be `1` where this one is `10`."""
    of, machine = scene.spare, scene.machine
    left, foreign = (f"/dev/shm/triton_{of.name}{more}_left" for more in ("", "0"))
    machine.write(left, "of a stub")
    machine.write(foreign, "of another")
    before = of.pid(of.triton)
    of.signal(of.triton, "KILL")
    machine.wait("Triton is back", lambda: of.pid(of.triton) not in ("", before))
    assert machine.run("ls", "/dev/shm").split() == ["events", foreign.rpartition("/")[2]]
    of.settle()


def test_the_sidecar_sees_gpus_and_no_other_devices(scene: Scene) -> None:
    """PrivateDevices= would hide them, and NVML would find none."""
    of = scene.spare
    of.look()
    of.systemctl("restart", of.sidecar)
    assert of.history()[-1] == "sidecar starts and opens nvidiactl"


def test_what_has_become_of_the_two_stays(scene: Scene) -> None:
    for event, of in scene.instances.items():
        check(event, of)


def noted(machine: Machine) -> list[str]:
    """What all of them noted, in order."""
    return [line.rstrip() for line in machine.read(f"{FOLDER}/log").splitlines()]


def test_an_envoy_that_is_restarted_drains_before(scene: Scene) -> None:
    machine, before = scene.machine, len(noted(scene.machine))
    machine.run("systemctl", "restart", "envoy")
    starts = "envoy.edge starts and opens"
    machine.wait("Envoy is back", lambda: starts in noted(machine)[before:])
    assert [line for line in noted(machine)[before:] if "edge" in line] == [
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
def test_an_envoy_that_crashed_has_nothing_to_drain(
    scene: Scene, kill: Callable[[Machine], object]
) -> None:
    before = len(noted(scene.machine))
    kill(scene.machine)
    starts = "envoy.edge starts and opens"
    scene.machine.wait("Envoy is back", lambda: starts in noted(scene.machine)[before:])
    assert not [line for line in noted(scene.machine)[before:] if "drain" in line]


def test_who_still_needs_another_stops_before_it(scene: Scene) -> None:
    """The last one: nothing runs after it."""
    machine, of = scene.machine, scene.spare
    machine.run("systemctl", "start", of.target, *EDGE)
    of.settle()
    before = len(noted(machine))
    machine.run("systemctl", "isolate", DOWN)
    machine.wait("all have stopped", lambda: "consul.edge stopped" in noted(machine)[before:])
    said = noted(machine)[before:]
    order = [said.index(f"sidecar.{of.name} stopped"), said.index("plane.edge has Envoy drain")]
    assert order[0] < said.index(f"triton.{of.name} stops")
    order += [
        said.index(f"{who}.edge {what}")
        for who in ("envoy", "plane", "consul")
        for what in ("stops", "stopped")
    ]
    assert order == sorted(order), said
