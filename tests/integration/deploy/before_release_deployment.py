"""What `make test-systemd` adds: the page's whole deployment, with the programs themselves.

Consul with access control, Envoy, two Tritons, their sidecars and the control plane are on one
machine, under load. What happens to one of them fails no request.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from tests.support.systemd import real, root
from tests.support.systemd.journal import FAILED, STOPPED, STOPPING
from tests.support.systemd.site import CONSUL, ENVOY, PLANE, UNITS, Clients, Deed, Site, deployed

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
    """What happens, to the primary if to one of two, and whether streams there are cut by it."""

    happens: Deed
    cuts: bool = False


def _signal(unit: str, name: str) -> Deed:
    return lambda site, primary: site.signal(unit.format(primary), name)


def _systemctl(*argv: str) -> Deed:
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
    "the sidecar is told to stop": Event(_signal(SIDECAR, "TERM")),
    "the control plane is restarted": Event(_systemctl("restart", PLANE)),
    "the control plane is killed": Event(_signal(PLANE, "KILL")),
    "Consul is restarted": Event(_systemctl("restart", CONSUL)),
    "Consul is killed": Event(_signal(CONSUL, "KILL")),
}


@pytest.mark.parametrize("event", EVENTS)
def test_no_request_fails(site: Site, clients: Clients, event: str) -> None:
    unary, streams = clients.told()
    EVENTS[event].happens(site, site.primary())
    site.settle(clients)
    now, of_streams = clients.told()
    assert now.since(unary) == ()
    assert of_streams.since(streams) == () or EVENTS[event].cuts


# To a request that found no listener: refused, or reset by one that closed before it accepted.
_NO_LISTENER = "failed to connect to all addresses"


def test_an_envoy_that_is_alone_lets_nothing_in_flight_fail(site: Site, clients: Clients) -> None:
    unary, streams = clients.told()
    site.systemctl("restart", ENVOY)
    site.settle(clients)
    now, of_streams = clients.told()
    failed = (*now.since(unary), *of_streams.since(streams))
    assert [each for each in failed if _NO_LISTENER not in each] == []


# What may be said to a request that comes when all instances have left, or Envoy has. The last one
# is gRPC's, of a stream that is refused while its request is still sent.
_LATE = ("no healthy upstream", _NO_LISTENER, "Internal error from Core")


def test_a_machine_that_goes_down_finishes_what_has_begun(site: Site, clients: Clients) -> None:
    """The last one: nothing runs after it."""
    site.settle(clients)
    unary, streams = clients.told()
    journal = site.machine.power_off()
    now, of_streams = clients.end()

    failed = (*now.since(unary), *of_streams.since(streams))
    assert [each for each in failed if not any(late in each for late in _LATE)] == []
    assert of_streams.done >= streams.done + 4  # each client had one
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
