"""For `make test-systemd`: the whole deployment of deploy/README.md, with the real programs.

Consul with ACLs, Envoy, two Tritons, their sidecars and the control plane are on one machine, under
load. No request fails when one of them stops, restarts or is killed.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from sidecar.drill import record
from sidecar.drill.report import files
from tests.support.drills import not_late
from tests.support.systemd import page, real, root
from tests.support.systemd.journal import FAILED, STOPPED, STOPPING
from tests.support.systemd.site import (
    CONSUL,
    ENVOY,
    PLANE,
    UNITS,
    Action,
    Clients,
    Site,
    deployed,
    run,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


@pytest.fixture(scope="module", params=root.SUITES)
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("machine")
    with deployed(root.provide(request.param), folder) as site:
        yield site


@pytest.fixture(scope="module")
def clients(site: Site) -> Iterator[Clients]:
    with Clients.sending(site.machine) as clients:
        site.settle(clients)
        yield clients


@dataclass(frozen=True)
class Event:
    """What happens, at the primary if there are two of a unit, and whether it cuts its streams."""

    happens: Action
    cuts: bool = False


def _signal(unit: str, name: str) -> Action:
    return lambda site, primary: site.signal(unit.format(primary), name)


def _systemctl(*argv: str) -> Action:
    return lambda site, primary: site.systemctl(*(word.format(primary) for word in argv))


def _stop_and_start(site: Site, primary: str) -> None:
    site.systemctl("stop", f"tritonserver@{primary}")
    site.systemctl("start", f"tritonserver@{primary}")


TRITON, SIDECAR = "tritonserver@{}.service", "triton-sidecar@{}.service"
EVENTS: Mapping[str, Event] = {
    "Triton is killed": Event(_signal(TRITON, "KILL"), cuts=True),
    "Triton is restarted": Event(_systemctl("restart", TRITON)),
    "Triton is stopped and started": Event(_stop_and_start),
    "Triton is frozen, until recovery restarts it": Event(_signal(TRITON, "STOP"), cuts=True),
    "the sidecar is killed": Event(_signal(SIDECAR, "KILL")),
    "the sidecar gets SIGTERM": Event(_signal(SIDECAR, "TERM")),
    "the control plane is restarted": Event(_systemctl("restart", PLANE)),
    "the control plane is killed": Event(_signal(PLANE, "KILL")),
    "Consul is restarted": Event(_systemctl("restart", CONSUL)),
    "Consul is killed": Event(_signal(CONSUL, "KILL")),
}


@pytest.mark.parametrize("event", EVENTS)
def test_no_request_fails_when_a_program_stops_or_restarts(
    site: Site, clients: Clients, event: str
) -> None:
    unary, streams = clients.outcomes()
    EVENTS[event].happens(site, site.primary())
    site.settle(clients)
    unary_after, streams_after = clients.outcomes()
    assert unary_after.since(unary) == ()
    assert streams_after.since(streams) == () or EVENTS[event].cuts


# The timer of a drill, which would otherwise wait for a Tuesday.
SOON = "[Timer]\nOnCalendar=\nOnActiveSec=1s\nAccuracySec=100ms\n"
_DRILLS = 600.0  # seconds
TIMER, DRILL = "triton-sidecar-drill.timer", "triton-sidecar-drill.service"
REPORTS = "/var/lib/triton-sidecar-drill"


def test_the_timer_of_the_monthly_drill_drills(site: Site, clients: Clients) -> None:
    site.settle(clients)
    unary, streams = clients.outcomes()
    machine = site.machine
    machine.write(f"/etc/systemd/system/{TIMER}.d/soon.conf", SOON)
    run(machine, page.DRILL)
    machine.wait("the drill runs", lambda: machine.units(DRILL)[DRILL].state == "activating")
    machine.wait("the drill has ended", lambda: not machine.units(DRILL)[DRILL].busy, _DRILLS)
    said = machine.run("journalctl", "--unit", DRILL, "--output=cat")
    assert machine.show(DRILL, "ExecMainStatus")[0] in ("0", "1"), said  # 1: it was late
    runs = _drilled(site)
    assert {each.scenario for each in runs if each.status in ("passed", "failed")} == {
        "sidecar-killed",
        "switchover",
    }, said
    assert [violation for each in runs for violation in not_late(each)] == []
    assert sum(each.figures.failed + each.figures.wrong for each in runs) == 0
    history = site.command("history", "--json")["drills"]
    assert {(each["scenario"], each["outcome"]) for each in history} == {
        ("sidecar-killed", "done"),
        ("switchover", "done"),
    }
    site.settle(clients)
    unary_after, streams_after = clients.outcomes()
    assert unary_after.since(unary) == streams_after.since(streams) == ()


def _drilled(site: Site) -> tuple[record.Run, ...]:
    """The runs in the only report, which has its page."""
    [folder] = site.machine.run("ls", REPORTS).split()
    assert "report.html" in site.machine.run("ls", f"{REPORTS}/{folder}").split()
    text = site.machine.read(f"{REPORTS}/{folder}/{files.RECORD}")
    return record.loads(text, files.RECORD).runs


# The error of a request that found no listener, or one that closed before it accepted.
_NO_LISTENER = "failed to connect to all addresses"


def test_a_restart_of_the_only_envoy_fails_no_request_in_flight(
    site: Site, clients: Clients
) -> None:
    unary, streams = clients.outcomes()
    site.systemctl("restart", ENVOY)
    site.settle(clients)
    unary_after, streams_after = clients.outcomes()
    failed = (*unary_after.since(unary), *streams_after.since(streams))
    assert [each for each in failed if _NO_LISTENER not in each] == []


# The errors of a request that arrives after all instances, or Envoy, have stopped. The last one is
# gRPC's, for a stream that is rejected while its request is still being sent.
_LATE = ("healthy upstream", _NO_LISTENER, "Internal error from Core")


def test_a_machine_that_powers_off_finishes_the_requests_in_flight(
    site: Site, clients: Clients
) -> None:
    """This has to be the last test, because it powers the machine off."""
    site.settle(clients)
    unary, streams = clients.outcomes()
    journal = site.machine.power_off()
    unary_after, streams_after = clients.end()

    failed = (*unary_after.since(unary), *streams_after.since(streams))
    assert [each for each in failed if not any(late in each for late in _LATE)] == []
    assert streams_after.done >= streams.done + 4  # each client had one in flight
    logged = [json.loads(line) for line in journal.said(ENVOY) if line.startswith("{")]
    assert {line["detail"] for line in logged} <= {"no_healthy_upstream"}

    happened = journal.of_units()
    assert [unit for unit in UNITS if (FAILED, unit) in happened and unit != CONSUL] == []
    before = [(SIDECAR.format(name), TRITON.format(name)) for name in real.TRITONS]
    before += [(SIDECAR.format(name), ENVOY) for name in real.TRITONS]
    before += [(ENVOY, PLANE), (PLANE, CONSUL)]
    early = [
        (first, then)
        for first, then in before
        if happened.index((STOPPED, first)) > happened.index((STOPPING, then))
    ]
    assert early == [], happened
