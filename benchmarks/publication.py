"""The time from a change of a sidecar's verdict until Envoy has other endpoints.

A separate instance joins a real mesh: a sidecar's publisher and its grpc.health.v1, without a
Triton, so that the moment of the change is known. Its verdict flips; Consul, the control plane and
Envoy are real, each a separate process. Envoy has the change when the control plane reports
that it acknowledged it, which WatchDrain pushes. This is verified by reading the endpoint in
Envoy's admin interface every few milliseconds.

For comparison: the same path if nothing is pushed and Consul checks grpc.health.v1 every second,
which is Consul's shortest interval.

Exit status 1 if a change did not arrive.
"""

import argparse
import asyncio
import random
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import grpc.aio

from benchmarks import report
from benchmarks.report import ms, quantile
from sidecar.consul.api import ConsulApi
from sidecar.consul.client import Consul
from sidecar.events import Event, Published
from sidecar.health import server as health_server
from sidecar.local import consul_view
from sidecar.local.meshfile import Mesh
from sidecar.local.planning import ports
from sidecar.local.planning.plan import SERVICE
from sidecar.registry.publisher import Publisher
from sidecar.registry.registration import InstanceInfo, InstanceMeta
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.errors import Unavailable
from sidecar.runtime.latest import Latest
from sidecar.v1 import control_plane_pb2, control_plane_pb2_grpc
from sidecar.verdict.evidence import Reason
from sidecar.verdict.verdict import Verdict
from sidecar.verdict.verdict_line import State

_PUSHED = 300  # changes, every other one a withdrawal
_POLLED, _INSTANCES = 12, 10  # changes of each instance that Consul polls; instances
_LOOK = 0.004  # seconds between two reads of Envoy's admin interface
_PATIENCE = 15.0  # seconds after which a change counts as lost


def verdict(serving: bool) -> Verdict:
    """A verdict as of now."""
    state, reason = (
        (State.PASSING, Reason.OK) if serving else (State.CRITICAL, Reason.CANARY_FAILED)
    )
    return Verdict(state, reason, "", frozenset(), at=time.monotonic())


@asynccontextmanager
async def patience() -> AsyncIterator[None]:
    """Limit the time that a change may take.

    Raises:
        Unavailable: it took longer.
    """
    try:
        async with asyncio.timeout(_PATIENCE):
            yield
    except TimeoutError:
        raise Unavailable(f"a change did not arrive within {_PATIENCE:g} s") from None


class Heard:
    """What WatchDrain reports of one instance: whether Envoy may send it requests."""

    def __init__(self) -> None:
        self._at: dict[bool, float] = {}
        self._news = asyncio.Event()

    async def follow(self, channel: grpc.aio.Channel, instance: str) -> None:
        """Follow WatchDrain until cancelled."""
        stub = control_plane_pb2_grpc.ControlPlaneServiceStub(channel)  # type: ignore[no-untyped-call]
        request = control_plane_pb2.WatchDrainRequest(service=SERVICE, instance=instance)
        async for said in stub.WatchDrain(request):
            routed = not said.envoys_acknowledged  # there is one Envoy
            if routed not in self._at:
                self._at = {routed: time.monotonic()}
                self._news.set()

    async def until(self, routed: bool) -> float:
        """The time at which Envoy acknowledged it.

        Raises:
            Unavailable: it has not.
        """
        async with patience():
            while routed not in self._at:
                self._news.clear()
                await self._news.wait()
        return self._at[routed]


@dataclass(slots=True)
class Samples:
    """Seconds from the change of the verdict until each field's event."""

    confirmed: list[float] = field(default_factory=list)
    acknowledged: list[float] = field(default_factory=list)
    seen: list[float] = field(default_factory=list)

    @property
    def arrived(self) -> list[float]:
        """Seconds until the first of the two signs that Envoy has the change."""
        return list(map(min, self.acknowledged, self.seen))


@asynccontextmanager
async def health(cell: Latest[Verdict], names: frozenset[str]) -> AsyncIterator[str]:
    """A grpc.health.v1 server on its own port; gives its address."""
    server = grpc.aio.server()
    health_server.add_to(server, cell, names)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def heard(mesh: Mesh, instances: Sequence[str]) -> AsyncIterator[list[Heard]]:
    """A follower of WatchDrain for each instance."""
    async with grpc.aio.insecure_channel(mesh.xds.address) as channel:
        ears = [Heard() for _ in instances]
        listening = [
            asyncio.create_task(ear.follow(channel, instance))
            for ear, instance in zip(ears, instances, strict=True)
        ]
        try:
            yield ears
        finally:
            for task in listening:
                task.cancel()
            await asyncio.wait(listening)


# --- pushed by the sidecar ------------------------------------------------------------------


async def pushed(mesh: Mesh, consul: Consul, port: int) -> Samples:
    """Flip the verdict of one instance that has the sidecar's publisher."""
    samples = Samples()
    cell = Latest(verdict(True))

    def hook(event: Event) -> None:
        if isinstance(event, Published):
            samples.confirmed.append(event.seconds)

    async with AsyncExitStack() as stack:
        sidecar = await stack.enter_async_context(health(cell, frozenset()))
        instance = _instance("bench-pushed", port, sidecar)
        wished = instance, InstanceMeta()
        publisher = Publisher(
            consul, cell, lambda: wished, lambda said: said.summary, SystemClock(), hook
        )
        stack.push_async_callback(consul.deregister_service, instance.id)
        for loop in (publisher.push, publisher.keep):
            stack.callback(asyncio.create_task(loop()).cancel)
        [ear] = await stack.enter_async_context(heard(mesh, [instance.id]))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        await ear.until(True)
        samples.confirmed.clear()
        for number in range(_PUSHED):
            await asyncio.sleep(random.uniform(0.05, 0.12))  # the change before it has settled
            serving = bool(number % 2)
            now = verdict(serving)
            cell.set(now)
            looking = asyncio.create_task(_shown(http, mesh.envoy.admin, port, serving))
            samples.acknowledged.append(await ear.until(serving) - now.at)
            samples.seen.append(await looking - now.at)
    return samples


async def _shown(http: aiohttp.ClientSession, admin: str, port: int, wanted: bool) -> float:
    """The time at which Envoy's admin interface shows the endpoint as usable, or as not usable."""
    flags = re.compile(rf"::127\.0\.0\.1:{port}::health_flags::(.*)")
    async with patience():
        while True:
            async with http.get(f"http://{admin}/clusters") as answer:
                found = flags.search(await answer.text())
            # Envoy flags the health that the control plane sets as coming from EDS.
            if (found is not None and "eds" not in found[1]) is wanted:
                return time.monotonic()
            await asyncio.sleep(_LOOK)


def _instance(name: str, port: int, sidecar: str) -> InstanceInfo:
    return InstanceInfo(
        id=name,
        service=SERVICE,
        address="127.0.0.1",
        port=port,
        weight=1,
        tags=(),
        meta=(),
        models=(),
        sidecar=sidecar,
        liveness=health_server.LIVENESS,
    )


# --- polled by Consul -----------------------------------------------------------------------


async def polled(mesh: Mesh, consul: ConsulApi, taken: Sequence[int]) -> list[float]:
    """Flip instances at random moments; only Consul's own check watches them."""
    names = [f"bench-polled-{number}" for number in range(len(taken))]
    serving = set(names)
    cell = Latest(_serving(serving))

    def flip(name: str) -> float:
        serving.symmetric_difference_update({name})
        cell.set(_serving(serving))
        return time.monotonic()

    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(health(cell, frozenset(names)))
        for name, port in zip(names, taken, strict=True):
            await consul.register_service(_polled_registration(name, port, address))
            stack.push_async_callback(consul.deregister_service, name)
        ears = await stack.enter_async_context(heard(mesh, names))
        await asyncio.gather(*(ear.until(True) for ear in ears))
        found = await asyncio.gather(*map(_flip_often, names, ears, [flip] * len(names)))
    return [seconds for samples in found for seconds in samples]


async def _flip_often(name: str, ear: Heard, flip: Callable[[str], float]) -> list[float]:
    samples = []
    for number in range(_POLLED):
        await asyncio.sleep(random.uniform(0.1, 1.1))  # anywhere between two polls
        began = flip(name)
        samples.append(await ear.until(bool(number % 2)) - began)
    return samples


def _serving(names: set[str]) -> Verdict:
    return Verdict(State.PASSING, Reason.OK, "", frozenset(names), at=time.monotonic())


def _polled_registration(name: str, port: int, health: str) -> dict[str, object]:
    return {
        "ID": name,
        "Name": SERVICE,
        "Address": "127.0.0.1",
        "Port": port,
        "Meta": {"sidecar_grpc_port": health.rpartition(":")[2]},
        "Checks": [{"GRPC": f"{health}/{name}", "Interval": "1s", "Timeout": "1s"}],
    }


# --------------------------------------------------------------------------------------------


def row(name: str, samples: Sequence[float]) -> tuple[str, ...]:
    """A line of the table."""
    shares = (quantile(samples, share) for share in (0.5, 0.9, 0.99))
    return name, str(len(samples)), *map(ms, shares), ms(max(samples))


async def measure(mesh: Mesh) -> None:
    """Measure and print everything."""
    with ports.reserve(1 + _INSTANCES) as taken:
        async with consul_view.connect(mesh) as consul:
            ours = await pushed(mesh, consul, taken[0])
            theirs = await polled(mesh, consul, taken[1:])
    report.table(
        "From the change of a verdict until …",
        ("", "changes", "p50", "p90", "p99", "slowest"),
        row("Consul has confirmed it", ours.confirmed),
        row("the control plane says that Envoy acknowledged it", ours.acknowledged),
        row("Envoy's admin interface shows it", ours.seen),
        row("Envoy has it: the earlier of the two", ours.arrived),
        row("  the same, withdrawals only", ours.arrived[::2]),
        row("baseline: acknowledged, where Consul polls each second", theirs),
        note=f"{_PUSHED} changes pushed and {len(theirs)} polled; Envoy's admin interface was "
        f"looked at every {ms(_LOOK, 0)}",
    )
    ratio = quantile(theirs, 0.5) / quantile(ours.arrived, 0.5)
    print(f"Pushing is {ratio:.0f} times as fast as Consul's polling, by the median.\n")


def main() -> int:
    """Run the benchmark; returns the exit status."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    report.begin("From a verdict to Envoy's endpoints")
    with report.mesh(instances=1) as mesh:
        asyncio.run(measure(mesh))
    return 0


if __name__ == "__main__":
    sys.exit(main())
