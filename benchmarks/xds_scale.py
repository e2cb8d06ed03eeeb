"""What the control plane takes, and how it grows with instances: a change, a reconnect, a rest.

Consul, the control plane and one Envoy are the real ones; a hundred further ADS clients share a
process. One instance's verdict flips, pushed to Consul as its sidecar pushes it, and the change has
arrived when the last client has confirmed endpoints that show it, and Envoy has counted an update.
Then all clients lose their connections, and the control plane is restarted behind a wire that
counts what it asks of Consul. The same for each number of instances.

Beside it: the bytes that Consul itself sends for such a change, and an Envoy that follows the same
Consul by DNS. Exit status 1 if something did not arrive.

Not named `xds.py`: a script's folder comes first when modules are looked for, and Envoy's protos
import a package `xds`.
"""

import argparse
import asyncio
import math
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from benchmarks import report, xds_clients, xds_parts, xds_peer
from benchmarks.report import ms, quantile
from benchmarks.xds_clients import Child
from benchmarks.xds_parts import PATIENCE, SERVICE, Admin, Flipper, Program
from sidecar.consul import Consul
from sidecar.errors import SidecarError, Unavailable
from sidecar.local import ports as free
from sidecar.local.plan import Ports
from sidecar.settings.tables import ConsulSettings

_GROWTH = (10, 100, 1000, 5000)
_FEW = 20  # changes at the sizes that are not the main one, and of the peer
_COUNTED = 10  # changes whose bytes are counted
_REST = 20.0  # seconds at rest
_PAUSE = 0.15, 0.35  # seconds between two changes
_LOOK = 0.004  # seconds between two looks at Envoy's counters
_COLUMNS = 40  # of the plot


@dataclass
class Found:
    """What was measured at one number of instances. Seconds and bytes."""

    instances: int
    median: list[float] = field(default_factory=list)  # until the median client's ACK
    last: list[float] = field(default_factory=list)  # until the last client's ACK
    whole: list[float] = field(default_factory=list)  # the same, Envoy included
    cpu: float = 0.0  # of the control plane, per change
    consul_cpu: float = 0.0
    resident: int = 0
    cut: float = 0.0  # until all are back after their connections were lost
    restarted: float = 0.0  # … after the control plane was started anew
    listened: float = 0.0  # … after that one listened
    rest_requests: float = 0.0  # a second
    rest_bytes: float = 0.0
    rest_cpu: float = 0.0  # share of a core
    change_requests: float = 0.0
    change_bytes: float = 0.0  # as Consul sent them
    document: int = 0  # the answer of Consul, not compressed
    pushed: float = 0.0  # bytes to one client


@dataclass
class Bench:
    """What stays while the number of instances grows."""

    folder: Path
    ports: Ports
    dns: int
    peer: int  # port of the peer's admin interface
    wire: int
    count: int  # clients
    consul: Program
    http: aiohttp.ClientSession
    flipper: Flipper

    @property
    def consul_address(self) -> str:
        """Where Consul answers."""
        return f"127.0.0.1:{self.ports.consul_http}"


@asynccontextmanager
async def bench(folder: Path, count: int) -> AsyncIterator[Bench]:
    """Consul, and the instance whose verdict flips."""
    async with AsyncExitStack() as stack:
        taken = stack.enter_context(free.reserve(Ports.needed(0) + 3))
        ports, (dns, peer, wire) = Ports.deal(taken[3:]), taken[:3]
        consul = xds_parts.consul(folder, ports, dns)
        stack.callback(consul.end)
        address = f"http://127.0.0.1:{ports.consul_http}"
        await xds_parts.answers("consul", address)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        door = await stack.enter_async_context(Consul(ConsulSettings(address=address)))
        flipper = await stack.enter_async_context(Flipper.registered(door))
        yield Bench(folder, ports, dns, peer, wire, count, consul, http, flipper)


# --- one number of instances ----------------------------------------------------------------


async def measure(made: Bench, instances: int, changes: int) -> Found:
    """Everything at one number of instances, which are in the catalog already."""
    found = Found(instances)
    address = f"127.0.0.1:{made.ports.xds}"
    async with AsyncExitStack() as stack:
        plane = xds_parts.control_plane(made.folder, made.ports, made.ports.consul_http)
        stack.callback(lambda: plane.end())  # whichever runs by then
        clients = Child(xds_clients.clients, address, made.count)
        stack.callback(clients.end)
        stack.callback(xds_parts.envoy(made.folder, made.ports).end)
        admin = Admin(made.http, made.ports.envoy_admin)
        await xds_parts.answers("http", f"http://127.0.0.1:{made.ports.envoy_admin}/ready")
        await flip(made, clients, admin, Found(0), 2)  # all are there, and have seen a change
        await _at_rest(plane, found)
        await _changes(made, plane, clients, admin, changes, found)
        await _cut(clients, found)
        plane.end(signal.SIGTERM)
        wire = Child(xds_clients.counting_wire, made.wire, made.ports.consul_http)
        stack.callback(wire.end)
        await xds_parts.answers("tcp", f"127.0.0.1:{made.wire}")
        plane = await _restarted(made, clients, found)
        await _counted(made, wire, clients, admin, found)
    found.document = await _document(made)
    return found


async def flip(made: Bench, clients: Child, admin: Admin, found: Found, changes: int) -> None:
    """Flip the verdict and wait until everybody knows, so many times."""
    for _ in range(changes):
        await asyncio.sleep(random.uniform(*_PAUSE))
        status = "critical" if made.flipper.status == "passing" else "passing"
        clients.tell("expect", made.flipper.instance.address, status == "passing")
        before = await admin.stat("update_success")
        began = time.monotonic()
        await made.flipper.set("critical" if status == "critical" else "passing")
        median, last = await clients.hear()
        envoy = last if await admin.stat("update_success") > before else None
        while envoy is None:
            if time.monotonic() > began + PATIENCE:
                raise Unavailable(f"Envoy did not hear of a change within {PATIENCE:g} s")
            await asyncio.sleep(_LOOK)
            envoy = time.monotonic() if await admin.stat("update_success") > before else None
        found.median.append(median - began)
        found.last.append(last - began)
        found.whole.append(envoy - began)


async def _at_rest(plane: Program, found: Found) -> None:
    before, began = plane.cpu, time.monotonic()
    await asyncio.sleep(_REST / 4)
    found.rest_cpu = (plane.cpu - before) / (time.monotonic() - began)


async def _changes(
    made: Bench, plane: Program, clients: Child, admin: Admin, changes: int, found: Found
) -> None:
    clients.tell("received")
    pushed = await clients.hear()
    began, ours, theirs = time.monotonic(), plane.cpu, made.consul.cpu
    await flip(made, clients, admin, found, changes)
    at_rest = found.rest_cpu * (time.monotonic() - began)
    found.cpu = (plane.cpu - ours - at_rest) / changes
    found.consul_cpu = (made.consul.cpu - theirs) / changes
    found.resident = plane.resident
    clients.tell("received")
    found.pushed = (await clients.hear() - pushed) / changes / made.count


async def _cut(clients: Child, found: Found) -> None:
    began = time.monotonic()
    clients.tell("cut")
    clients.tell("connected", began)
    found.cut = await clients.hear() - began


async def _restarted(made: Bench, clients: Child, found: Found) -> Program:
    began = time.monotonic()
    plane = xds_parts.control_plane(made.folder, made.ports, made.wire)
    clients.tell("connected", began)
    async with asyncio.timeout(PATIENCE):
        while not await _listens(made.ports.xds):  # noqa: ASYNC110 -- a port wakes nobody
            await asyncio.sleep(_LOOK)
    listened = time.monotonic()
    done = await clients.hear()
    found.restarted, found.listened = done - began, done - listened
    return plane


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def _counted(made: Bench, wire: Child, clients: Child, admin: Admin, found: Found) -> None:
    """What is asked of Consul at rest, and more for each change."""

    async def heard() -> tuple[int, int]:
        wire.tell("count")
        requests, received = await wire.hear()
        return requests, received

    await flip(made, clients, admin, Found(0), 2)
    await heard()
    await asyncio.sleep(_REST)
    requests, received = await heard()
    found.rest_requests, found.rest_bytes = requests / _REST, received / _REST
    began = time.monotonic()
    await flip(made, clients, admin, Found(0), _COUNTED)
    requests, received = await heard()
    seconds = time.monotonic() - began
    found.change_requests = (requests - found.rest_requests * seconds) / _COUNTED
    found.change_bytes = (received - found.rest_bytes * seconds) / _COUNTED


async def _document(made: Bench) -> int:
    """The length of Consul's answer, which its compression hides."""
    url = f"http://{made.consul_address}/v1/health/service/{SERVICE}"
    async with made.http.get(url) as answer:
        return len(await answer.read())


# --- the peer -------------------------------------------------------------------------------


async def peer(made: Bench, instances: int, changes: int) -> list[float]:
    """How long it takes until an Envoy that asks Consul's DNS has another set of hosts."""
    samples: list[float] = []
    with xds_peer.running(made.folder, made.peer, made.dns):
        await xds_parts.answers("http", f"http://127.0.0.1:{made.peer}/ready")
        admin = Admin(made.http, made.peer)
        await made.flipper.set("passing")
        await _hosts(admin, instances)
        for number in range(changes):
            await asyncio.sleep(random.uniform(0.1, 0.1 + xds_peer.REFRESH))
            serving = bool(number % 2)
            began = time.monotonic()
            await made.flipper.set("passing" if serving else "critical")
            await _hosts(admin, instances if serving else instances - 1)
            samples.append(time.monotonic() - began)
    await made.flipper.set("passing")
    return samples


async def _hosts(admin: Admin, wanted: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while (found := await admin.stat("membership_total")) != wanted:
        if time.monotonic() > deadline:
            raise Unavailable(f"Consul's DNS gave Envoy {found} hosts, not {wanted}")
        await asyncio.sleep(_LOOK)


# --- what is printed ------------------------------------------------------------------------


_FIGURES: tuple[tuple[str, Callable[[Found], str]], ...] = (
    ("last ACK, p50", lambda each: ms(quantile(each.last, 0.5))),
    ("last ACK, p99", lambda each: ms(quantile(each.last, 0.99))),
    ("changes", lambda each: str(len(each.last))),
    ("CPU of the control plane, per change", lambda each: ms(each.cpu)),
    ("CPU of Consul, per change", lambda each: ms(each.consul_cpu)),
    ("baseline: Consul sends per change", lambda each: _kb(each.change_bytes)),
    ("  that is, before compression", lambda each: _kb(each.document)),
    ("pushed per change, to each client", lambda each: _kb(each.pushed)),
    ("requests to Consul per change", lambda each: f"{each.change_requests:.1f}"),
    ("resident memory", lambda each: f"{each.resident / 1e6:.0f} MB"),
    ("all back after a cut", lambda each: ms(each.cut, 0)),
    ("all back after a restart's exec", lambda each: ms(each.restarted, 0)),
    ("  counted from when it listens", lambda each: ms(each.listened, 0)),
    ("at rest: CPU", lambda each: f"{each.rest_cpu:.1%}"),
    ("at rest: requests to Consul", lambda each: f"{each.rest_requests:.2f}/s"),
    ("at rest: from Consul", lambda each: f"{_kb(each.rest_bytes)}/s"),
)


def show(found: Sequence[Found], main: Found, peer_samples: Sequence[float], count: int) -> None:
    """Print it all."""
    report.table(
        f"{main.instances} instances, {count} ADS clients and one Envoy: from a verdict until …",
        ("", "changes", "p50", "p90", "p99", "slowest"),
        _row("the median client has confirmed it", main.median),
        _row("the last client has confirmed it", main.last),
        _row("… and Envoy counts the update", main.whole),
        _row("peer: Envoy has it by Consul's DNS", peer_samples),
        note=f"The peer asks each {xds_peer.REFRESH:g} s, and learns addresses only. By the median "
        f"it takes {quantile(peer_samples, 0.5) / quantile(main.last, 0.5):.1f} times as long as "
        f"the last of {count} clients.",
    )
    report.table(
        "Growth with the number of instances",
        ("", *(str(each.instances) for each in found)),
        *((name, *map(shown, found)) for name, shown in _FIGURES),
    )
    _plot(found)


def _row(name: str, samples: Sequence[float]) -> tuple[str, ...]:
    shares = (quantile(samples, share) for share in (0.5, 0.9, 0.99))
    return name, str(len(samples)), *map(ms, shares), ms(max(samples, default=math.nan))


def _kb(size: float) -> str:
    return f"{size / 1000:.1f} kB"


def _plot(found: Sequence[Found]) -> None:
    """Each figure as a multiple of its value at the fewest instances, on a logarithmic scale."""
    figures = (
        ("last ACK, p50", [quantile(each.last, 0.5) for each in found]),
        ("CPU per change", [each.cpu for each in found]),
        ("pushed per change", [each.pushed for each in found]),
        ("Consul sends", [each.change_bytes for each in found]),
        ("… uncompressed", [float(each.document) for each in found]),
        ("instances", [float(each.instances) for each in found]),
    )
    most = max(value / values[0] for _, values in figures for value in values if values[0] > 0)
    print("Multiples of the value at the fewest instances (logarithmic)\n")
    for name, values in figures:
        for each, value in zip(found, values, strict=True):
            times = value / values[0] if values[0] > 0 else math.nan
            share = math.log(max(times, 1)) / math.log(max(most, 2)) if times == times else 0
            bar = "█" * (1 + round(share * _COLUMNS))
            print(f"{name:>18} {each.instances:>5} {bar} {times:.1f}")
            name = ""
    print(f"\n{_NOTE}\n")


_NOTE = """\
What grows with the number of instances. Consul answers a watch of a service with the whole list,
whatever has changed; the control plane cuts it into entries, finds those that say what they said
before by their text, and reads the others. (From an agent on another machine it comes compressed.)
Envoy is told a cluster's endpoints as one resource, so each client gets all of them with every
change. What would lift it: changes alone instead of lists. Consul's streaming backend (1.10 and
later) sends an agent only what has changed, but an agent's HTTP answer is still the whole list: it
takes a subscription to Consul's own gRPC stream. On Envoy's side that is LEDS, endpoints as
resources of their own. What does not grow with instances grows with clients: a push and an ACK
each, through gRPC in Python."""


# --------------------------------------------------------------------------------------------


async def run(flags: argparse.Namespace, folder: Path) -> None:
    """Measure and print everything."""
    sizes = sorted({*(size for size in flags.growth if size != flags.instances), flags.instances})
    found: list[Found] = []
    peers: list[float] = []
    async with bench(folder, flags.clients) as made:
        there = 1
        for size in sizes:
            await xds_parts.fill(made.http, made.consul_address, range(there, size))
            there = size
            main = size == flags.instances
            found.append(await measure(made, size, flags.changes if main else _FEW))
            print(f"  {size} instances: done", file=sys.stderr)
            if main:
                peers = await peer(made, size, min(_FEW, flags.changes))
    [main_one] = [each for each in found if each.instances == flags.instances]
    show(found, main_one, peers, flags.clients)


def main() -> int:
    """Run the benchmark; gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--changes", type=int, default=120)
    parser.add_argument("--growth", type=int, nargs="*", default=_GROWTH)
    flags = parser.parse_args()
    report.begin("The control plane at scale")
    folder = Path(tempfile.mkdtemp(prefix="triton-sidecar-bench-"))
    try:
        asyncio.run(run(flags, folder))
    except (SidecarError, TimeoutError) as error:
        print(f"logs: {folder}", file=sys.stderr)
        print(f"the benchmark failed: {str(error) or 'something is missing'}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
