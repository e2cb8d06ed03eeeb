"""A timeline of a mesh's changes, as seen from outside: in Consul and in Envoy.

Acts: aiohttp, asyncio, time.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import aiohttp

from sidecar.consul import blocking_query
from sidecar.consul.api import ConsulApi, KVEntry, QueryResult, ServiceEntry
from sidecar.election.keys import lock
from sidecar.local import consul_view
from sidecar.local.meshfile import Mesh
from sidecar.local.planning.plan import SERVICE
from sidecar.registry import checks
from sidecar.registry.duplicate_entries import fold
from sidecar.runtime.clock import SystemClock

_WAIT = 30.0  # seconds that a blocking query may block
_POLL = 0.02  # seconds between polls of Envoy, and so their resolution
_RETRY = 0.2

Kind = Literal["verdict", "primary", "traffic"]


@dataclass(frozen=True, slots=True)
class Sighting:
    """A change; `at` is in seconds on the monotonic clock.

    `verdict`: the instance's status in Consul changed (`gone` if it is not listed), or the reason
    why it is not passing, which is the code that its sidecar pushed. `primary`: the instance took
    the lock. `traffic`: the instance answered a request through Envoy.
    """

    at: float
    kind: Kind
    instance: str
    value: str
    reason: str = ""


@dataclass(slots=True)
class Timeline:
    """All sightings so far, and the current state."""

    sightings: list[Sighting] = field(default_factory=list)
    verdicts: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    answered: dict[str, int] = field(default_factory=dict)
    primary: str | None = None
    epoch: int = 0

    def see(self, kind: Kind, instance: str, value: str, reason: str = "") -> None:
        """Record a sighting."""
        self.sightings.append(Sighting(time.monotonic(), kind, instance, value, reason))

    def first(self, kind: Kind, after: float, *, but: str = "", only: str = "") -> Sighting | None:
        """The first sighting of a kind since `after`, not of instance `but`, or `only` of one."""
        for sighting in self.sightings:
            wanted = sighting.instance == only if only else sighting.instance != but
            if sighting.kind == kind and sighting.at >= after and wanted:
                return sighting
        return None


@asynccontextmanager
async def follow(mesh: Mesh, *, traffic: bool = True) -> AsyncIterator[Timeline]:
    """Follow a mesh while the context lasts.

    Every read of Consul is consistent: a leader that has just started answers others with the state
    of long ago, while it still applies its log.

    Args:
        mesh: where it is.
        traffic: also poll Envoy for the instances that answer, which takes a third of a core.
    """
    async with (
        consul_view.connect(mesh) as consul,
        aiohttp.ClientSession() as http,
        follow_service(consul, SERVICE) as timeline,
    ):
        polling = asyncio.create_task(_traffic(http, mesh, timeline)) if traffic else None
        try:
            yield timeline
        finally:
            if polling:
                polling.cancel()


@asynccontextmanager
async def follow_service(consul: ConsulApi, service: str) -> AsyncIterator[Timeline]:
    """Follow the verdicts and the lock of a service in Consul while the context lasts."""
    timeline = Timeline()
    watchers = [
        asyncio.create_task(_verdicts(consul, service, timeline)),
        asyncio.create_task(_lock(consul, service, timeline)),
    ]
    try:
        yield timeline
    finally:
        for watcher in watchers:
            watcher.cancel()


async def _verdicts(consul: ConsulApi, service: str, timeline: Timeline) -> None:
    def see(answer: QueryResult[tuple[ServiceEntry, ...]]) -> None:
        now = {entry.id: entry for entry in fold(answer.value)}
        for instance in sorted(now.keys() | timeline.verdicts.keys()):
            entry = now.get(instance)
            status = entry.status if entry else "gone"
            code = reason(entry) if entry else ""
            another = status != "passing" and timeline.reasons.get(instance) != code
            if timeline.verdicts.get(instance) != status or another:
                timeline.see("verdict", instance, status, code)
            timeline.verdicts[instance], timeline.reasons[instance] = status, code

    def ask(index: int) -> Awaitable[QueryResult[tuple[ServiceEntry, ...]]]:
        return consul.health_service(service, index=index, wait=_WAIT, consistent=True)

    await blocking_query.follow(ask, see, _ignore, SystemClock(), _RETRY)


def reason(entry: ServiceEntry) -> str:
    """The code in the line that its sidecar pushed last, if it is about the entry's status.

    A sidecar that does not answer may have pushed that all is well.
    """
    worst = (check for check in entry.checks if check.status == entry.status)
    lines = [line for check in worst if (line := checks.pushed_line(check))]
    return next((line.reason.value for line in lines if line.reason), "")


async def _lock(consul: ConsulApi, service: str, timeline: Timeline) -> None:
    def see(answer: QueryResult[tuple[KVEntry, ...]]) -> None:
        held = lock.read(service, answer.value, answer.index)
        timeline.primary = held.instance
        if held.instance and held.epoch != timeline.epoch:
            timeline.epoch = held.epoch
            timeline.see("primary", held.instance, str(held.epoch))

    def ask(index: int) -> Awaitable[QueryResult[tuple[KVEntry, ...]]]:
        return consul.kv_prefix(lock.prefix(service), index=index, wait=_WAIT, consistent=True)

    await blocking_query.follow(ask, see, _ignore, SystemClock(), _RETRY)


def _ignore(why: str) -> None:
    """An absent Consul shows as missing sightings."""


async def _traffic(http: aiohttp.ClientSession, mesh: Mesh, timeline: Timeline) -> None:
    instances = {instance.triton.grpc: instance.id for instance in mesh.instances}
    while True:
        try:
            for address, answered in (await _answered(http, mesh.envoy.admin)).items():
                if (instance := instances.get(address)) is None:
                    continue
                if answered > timeline.answered.get(instance, 0):
                    timeline.see("traffic", instance, str(answered))
                # Envoy restarts at 0 for a host that was removed.
                timeline.answered[instance] = answered
        except aiohttp.ClientError:
            pass  # Envoy restarts; it is polled again
        await asyncio.sleep(_POLL)


async def _answered(http: aiohttp.ClientSession, admin: str) -> dict[str, int]:
    """The number of answered requests in Envoy, by the address of the upstream host."""
    found = {}
    async with http.get(f"http://{admin}/clusters?format=json") as answer:
        for cluster in (await answer.json(content_type=None))["cluster_statuses"]:
            for host in cluster.get("host_statuses", ()):
                socket = host["address"].get("socket_address")
                stats = {stat["name"]: int(stat.get("value", 0)) for stat in host["stats"]}
                if socket:
                    address = f"{socket['address']}:{socket['port_value']}"
                    found[address] = stats.get("rq_success", 0)
    return found
