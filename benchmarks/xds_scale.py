"""The control plane's costs by the number of instances: of a change, of a reconnect, and idle.

Consul, the control plane and one Envoy are real; a hundred more ADS clients share a
process. One instance's verdict flips, pushed to Consul as its sidecar pushes it, and the change has
arrived when the last client has acknowledged endpoints that show it, and Envoy counted an update.
Then all clients lose their connections, and the control plane is restarted behind a proxy that
counts its requests to Consul. The same for each number of instances.

For comparison: when an idle watcher has Consul's answer, the bytes that Consul sends
for such a change, and an Envoy that follows the same Consul through DNS.

Exit status 1 if something did not arrive.

Not named `xds.py`: a script's folder comes first in the module search path, and Envoy's protos
import a package `xds`.
"""

import argparse
import asyncio
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks import report, xds_clients, xds_parts, xds_peer
from benchmarks.xds_clients import Child
from benchmarks.xds_parts import PATIENCE, SERVICE, Admin, Flipper, Program
from benchmarks.xds_shown import Found, show
from sidecar.consul.access import ConsulAccess
from sidecar.consul.client import Consul
from sidecar.local.planning import ports as free
from sidecar.local.planning.plan import Ports
from sidecar.runtime.errors import SidecarError, Unavailable

_GROWTH = (10, 100, 1000, 5000)
_FEW = 20  # changes at sizes other than the main one, and of the baseline
_COUNTED = 10  # changes whose bytes are counted
_REST = 20.0  # idle seconds
_PAUSE = 0.15, 0.35  # seconds between two changes
_LOOK = 0.004  # seconds between two reads of Envoy's counters


@dataclass
class Bench:
    """What stays the same while the number of instances grows."""

    folder: Path
    ports: Ports
    dns: int
    peer: int  # port of the baseline's admin interface
    wire: int
    count: int  # clients
    consul: Program
    http: aiohttp.ClientSession
    flipper: Flipper

    @property
    def consul_address(self) -> str:
        """The address of Consul's HTTP API."""
        return f"127.0.0.1:{self.ports.consul_http}"


@asynccontextmanager
async def bench(folder: Path, count: int) -> AsyncIterator[Bench]:
    """Run Consul, and register the instance whose verdict flips."""
    async with AsyncExitStack() as stack:
        taken = stack.enter_context(free.reserve(Ports.needed(0) + 3))
        ports, (dns, peer, wire) = Ports.assign(taken[3:]), taken[:3]
        consul = xds_parts.consul(folder, ports, dns)
        stack.callback(consul.end)
        address = f"http://127.0.0.1:{ports.consul_http}"
        await xds_parts.answers("consul", address)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        door = await stack.enter_async_context(Consul(ConsulAccess(address=address)))
        flipper = await stack.enter_async_context(Flipper.registered(door))
        yield Bench(folder, ports, dns, peer, wire, count, consul, http, flipper)


# --- one number of instances ----------------------------------------------------------------


async def measure(made: Bench, instances: int, changes: int) -> Found:
    """Measure everything at one number of instances, which are already in the catalog."""
    found = Found(instances)
    address = f"127.0.0.1:{made.ports.xds}"
    async with AsyncExitStack() as stack:
        plane = xds_parts.control_plane(made.folder, made.ports, made.ports.consul_http)
        stack.callback(lambda: plane.end())  # the one that is running by then
        clients = Child(xds_clients.clients, address, made.count)
        stack.callback(clients.end)
        stack.callback(xds_parts.envoy(made.folder, made.ports).end)
        admin = Admin(made.http, made.ports.envoy_admin)
        await xds_parts.answers("http", f"http://127.0.0.1:{made.ports.envoy_admin}/ready")
        await flip(made, clients, admin, Found(0), 2)  # all are connected and have a change
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
    """Flip the verdict and wait until all clients have it, `changes` times."""
    for _ in range(changes):
        await asyncio.sleep(random.uniform(*_PAUSE))
        status = "critical" if made.flipper.status == "passing" else "passing"
        clients.send("expect", made.flipper.instance.address, status == "passing")
        before = await admin.stat("update_success")
        began = time.monotonic()
        await made.flipper.set("critical" if status == "critical" else "passing")
        median, last = await clients.receive()
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
    clients.send("received")
    pushed = await clients.receive()
    began, ours, theirs = time.monotonic(), plane.cpu, made.consul.cpu
    await flip(made, clients, admin, found, changes)
    at_rest = found.rest_cpu * (time.monotonic() - began)
    found.cpu = (plane.cpu - ours - at_rest) / changes
    found.consul_cpu = (made.consul.cpu - theirs) / changes
    found.resident = plane.resident
    clients.send("received")
    found.pushed = (await clients.receive() - pushed) / changes / made.count


async def _cut(clients: Child, found: Found) -> None:
    began = time.monotonic()
    clients.send("cut")
    clients.send("connected", began)
    found.cut = await clients.receive() - began


async def _restarted(made: Bench, clients: Child, found: Found) -> Program:
    began = time.monotonic()
    plane = xds_parts.control_plane(made.folder, made.ports, made.wire)
    clients.send("connected", began)
    async with asyncio.timeout(PATIENCE):
        while not await _listens(made.ports.xds):  # noqa: ASYNC110 -- a port has no event
            await asyncio.sleep(_LOOK)
    listened = time.monotonic()
    done = await clients.receive()
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
    """The requests to Consul when idle, and per change."""

    async def counted() -> tuple[int, int]:
        wire.send("count")
        requests, received = await wire.receive()
        return requests, received

    await flip(made, clients, admin, Found(0), 2)
    await counted()
    await asyncio.sleep(_REST)
    requests, received = await counted()
    found.rest_requests, found.rest_bytes = requests / _REST, received / _REST
    began = time.monotonic()
    await flip(made, clients, admin, Found(0), _COUNTED)
    requests, received = await counted()
    seconds = time.monotonic() - began
    found.change_requests = (requests - found.rest_requests * seconds) / _COUNTED
    found.change_bytes = (received - found.rest_bytes * seconds) / _COUNTED


async def _document(made: Bench) -> int:
    """The length of Consul's answer without compression."""
    url = f"http://{made.consul_address}/v1/health/service/{SERVICE}"
    async with made.http.get(url) as answer:
        return len(await answer.read())


async def alone(made: Bench, changes: int) -> list[float]:
    """The seconds until a watcher that does nothing else has all of Consul's answer."""
    url = f"http://{made.consul_address}/v1/health/service/{SERVICE}"

    async def ask(index: str) -> tuple[str, float]:
        async with made.http.get(url, params={"index": index, "wait": "60s"}) as answer:
            await answer.read()
            return answer.headers["X-Consul-Index"], time.monotonic()

    samples: list[float] = []
    index, _ = await ask("0")
    for number in range(changes):
        waiting = asyncio.create_task(ask(index))
        await asyncio.sleep(random.uniform(*_PAUSE))
        began = time.monotonic()
        await made.flipper.set("passing" if number % 2 else "critical")
        index, at = await waiting
        samples.append(at - began)
    return samples


# --- the baseline ---------------------------------------------------------------------------


async def peer(made: Bench, instances: int, changes: int) -> list[float]:
    """The seconds until an Envoy that queries Consul's DNS has another set of hosts."""
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


# --------------------------------------------------------------------------------------------


async def run(flags: argparse.Namespace, folder: Path) -> None:
    """Measure and print everything."""
    sizes = sorted({*(size for size in flags.growth if size != flags.instances), flags.instances})
    found: list[Found] = []
    peers: list[float] = []
    answered: list[float] = []
    async with bench(folder, flags.clients) as made:
        there = 1
        for size in sizes:
            await xds_parts.fill(made.http, made.consul_address, range(there, size))
            there = size
            main = size == flags.instances
            if main:
                answered = await alone(made, flags.changes)
            found.append(await measure(made, size, flags.changes if main else _FEW))
            print(f"  {size} instances: done", file=sys.stderr)
            if main:
                peers = await peer(made, size, min(_FEW, flags.changes))
    [main_one] = [each for each in found if each.instances == flags.instances]
    show(found, main_one, answered, peers, flags.clients)


def main() -> int:
    """Run the benchmark; returns the exit status."""
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
