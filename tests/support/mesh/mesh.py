"""A real mesh for tests: operations on its parts, and assertions about the outcome."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from sidecar.local import consul_view, control, load, meshfile, timeline
from sidecar.local.meshfile import InstanceAddresses, Mesh
from sidecar.local.planning.plan import SERVICE
from sidecar.registry.registration import COLD
from sidecar.runtime.errors import SidecarError
from tests.support.mesh.mesh_outside import PATIENCE, http, until
from tests.support.soak import pause, times

_LOOK = 0.2  # seconds between two looks at a mesh as a whole, which takes a while itself


@dataclass(frozen=True)
class Host:
    """An instance as Envoy has it."""

    priority: int
    health: dict[str, Any]
    active: int
    weight: int

    @property
    def usable(self) -> bool:
        return self.health == {"eds_health_status": "HEALTHY"}


@dataclass
class LiveMesh:
    """A running mesh. Addresses are fixed; pids are read each time, because parts restart."""

    folder: Path

    @property
    def now(self) -> Mesh:
        return meshfile.load(self.folder)

    def pid(self, part: str) -> int:
        """The process of a part that runs."""
        pid = self.running(part)
        assert pid is not None, f"{part} is not running"
        return pid

    def running(self, part: str) -> int | None:
        """The process, if there is one, of `consul`, `xds`, `envoy`, `triton-N` or `sidecar-N`."""
        mesh = self.now
        parts = {"consul": mesh.consul.pid, "xds": mesh.xds.pid, "envoy": mesh.envoy.pid}
        for number, instance in enumerate(mesh.instances):
            parts |= {f"triton-{number}": instance.triton.pid}
            parts |= {f"sidecar-{number}": instance.sidecar.pid}
        return parts[part]

    @staticmethod
    def sidecar_of(instance: str) -> str:
        """The part that is an instance's sidecar."""
        return instance.replace(SERVICE, "sidecar")

    def instance(self, name: str) -> InstanceAddresses:
        return self.now.instance(name)

    def signal(self, part: str, number: signal.Signals) -> int:
        """Send a signal to a part's leader; gives the pid that it has now."""
        pid = self.pid(part)
        os.kill(pid, number)
        return pid

    @contextmanager
    def frozen(self, part: str) -> Iterator[None]:
        """A part with all its processes, stopped as by a debugger."""
        group = self.pid(part)
        os.killpg(group, signal.SIGSTOP)
        try:
            yield
        finally:
            with suppress(ProcessLookupError):  # its sidecar has killed it
                os.killpg(group, signal.SIGCONT)

    @contextmanager
    def unsupervised(self) -> Iterator[None]:
        """No part is restarted, and one that ends can be asked for its exit status."""
        supervisor = self.now.supervisor
        assert supervisor is not None
        os.kill(supervisor, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(supervisor, signal.SIGCONT)

    # --- what is asked ----------------------------------------------------------------------

    async def well(self) -> None:
        """Wait until nothing is left of whatever was done to the mesh."""
        last = "it was not looked at"

        async def recovered() -> bool:
            nonlocal last
            try:
                last = await self._trouble()
            except (SidecarError, aiohttp.ClientError, OSError, ValueError) as error:
                last = repr(error)
            return not last

        try:
            await until(recovered, "", pause=_LOOK)
        except AssertionError:
            raise AssertionError(f"the mesh is not well after {PATIENCE:g} s: {last}") from None

    async def _trouble(self) -> str:
        """What is not as it should be, or nothing; what is cheap to ask comes first."""
        async with consul_view.connect(self.now) as consul:
            listed = await consul_view.observe(consul)
        if ill := [one for one in listed.values() if one.status not in consul_view.HEALTHY]:
            return "; ".join(f"{one.id} is {one.status}: {one.reason}" for one in ill)
        found = await asyncio.to_thread(control.status, self.folder)
        sick = [f"{part.state.name} {part.answer}" for part in found.parts if not part.well]
        cold = {seen.id for seen in found.instances.values() if seen.status == COLD}
        seen_ill = [seen for seen in found.instances.values() if seen.reason]
        sick += [f"{seen.id} {seen.reason}" for seen in seen_ill if seen.id not in cold]
        if sick or not found.well:
            return "; ".join(sick) or str(found.instances)
        roles = {seen.id: seen.role for seen in found.instances.values()}
        if (told := await self._told_roles()) != roles:
            return f"the catalog's tags say {told}, the lock {roles}"
        hosts = {name: host for name, host in (await self.hosts()).items() if name not in cold}
        wanted = {
            name: 0 if role == "primary" else 1 for name, role in roles.items() if name not in cold
        }
        if {name: host.priority for name, host in hosts.items()} != wanted:
            return f"Envoy has {hosts}, expected priorities {wanted}"
        return "" if all(host.usable for host in hosts.values()) else f"Envoy doubts: {hosts}"

    async def _told_roles(self) -> dict[str, str]:
        async with consul_view.connect(self.now) as consul:
            entries = (await consul.health_service(SERVICE)).value
        return {entry.id: entry.tags[0] if entry.tags else "" for entry in entries}

    async def primary(self) -> str:
        """The instance that holds the lock, as soon as one does."""
        found: list[str] = []

        async def alone() -> bool:
            async with consul_view.connect(self.now) as consul:
                instances = await consul_view.observe(consul)
            found[:] = [seen.id for seen in instances.values() if seen.role == "primary"]
            return len(found) == 1

        await until(alone, "one primary")
        return found[0]

    async def standby(self) -> str:
        """The other one of two."""
        primary = await self.primary()
        [found] = [instance.id for instance in self.now.instances if instance.id != primary]
        return found

    async def reason(self, instance: str) -> str:
        """What Consul says is wrong with an instance: the output of its failing checks."""
        async with consul_view.connect(self.now) as consul:
            seen = (await consul_view.observe(consul)).get(instance)
        return seen.reason if seen else "not in the catalog"

    async def hosts(self) -> dict[str, Host]:
        """The instances that Envoy has, by id."""
        mesh = self.now
        names = {instance.triton.grpc: instance.id for instance in mesh.instances}
        found = {}
        text = await http("GET", f"http://{mesh.envoy.admin}/clusters?format=json")
        [cluster] = [
            status for status in json.loads(text)["cluster_statuses"] if status["name"] == SERVICE
        ]
        for host in cluster.get("host_statuses", ()):
            socket = host["address"]["socket_address"]
            stats = {stat["name"]: int(stat.get("value", 0)) for stat in host["stats"]}
            address = f"{socket['address']}:{socket['port_value']}"
            found[names.get(address, address)] = Host(
                host.get("priority", 0),
                host["health_status"],
                stats["rq_active"],
                host.get("weight", 1),
            )
        return found

    async def avoided(self, instance: str, *, idle: bool = False) -> None:
        """Wait until Envoy sends an instance no new request, and perhaps has none there either."""

        async def left() -> bool:
            host = (await self.hosts()).get(instance)
            return host is None or not (host.usable or (idle and host.active))

        await until(left, f"Envoy avoids {instance}")

    async def checks(self, instance: str) -> set[str]:
        """What the checks of an instance say in Consul, its last verdict and whether it lives."""
        found = json.loads(await self.consul("GET", f"health/checks/{SERVICE}"))
        own = (f"{instance}:verdict", f"{instance}:sidecar")
        return {check["Status"] for check in found if check["CheckID"] in own}

    async def maintain(self, instance: str, enable: bool) -> None:
        """What an operator does to take an instance out of service, or back."""
        flag = str(enable).lower()
        await self.consul("PUT", f"agent/service/maintenance/{instance}?enable={flag}")

    async def repository(self, instance: str, model: str, verb: str) -> None:
        """Have a Triton `load` or `unload` a model."""
        address = self.instance(instance).triton.http
        await http("POST", f"http://{address}/v2/repository/models/{model}/{verb}")

    async def reloaded(self, instance: str, model: str) -> bool:
        """Unload and load a model; False while Triton cannot be asked.

        Its sidecar may have killed it meanwhile.
        """
        try:
            await self.repository(instance, model, "unload")
            await self.repository(instance, model, "load")
        except (AssertionError, aiohttp.ClientError):
            return False
        return True

    async def consul(self, method: str, path: str, body: object = None) -> str:
        """An operation on Consul that the sidecars do not know about."""
        mesh = self.now
        headers = {}
        if mesh.consul.token_file is not None:
            token = (mesh.consul.token_file.parent / "management").read_text().strip()
            headers["X-Consul-Token"] = token
        return await http(method, f"http://{mesh.consul.http}/v1/{path}", body, headers)

    # --- logs -------------------------------------------------------------------------------

    def log(self, part: str) -> Path:
        return self.folder / "logs" / f"{part}.log"

    def events(self, sidecar: str, since: int = 0) -> list[dict[str, Any]]:
        """What a sidecar wrote down after that many bytes of its log."""
        whole, _, _ = self.log(sidecar).read_bytes()[since:].rpartition(b"\n")
        return [json.loads(line) for line in whole.splitlines() if line.startswith(b"{")]

    def written(self, part: str) -> int:
        """How many bytes its log has now."""
        return self.log(part).stat().st_size

    async def registered_anew(self, instance: str, since: int) -> None:
        """Wait until a sidecar has written, after that many bytes, that it registered itself."""
        part = self.sidecar_of(instance)
        await until(
            lambda: [event for event in self.events(part, since) if event["event"] == "registered"],
            f"a new registration of {instance}",
        )

    def tails(self, lines: int = 40) -> list[tuple[str, str]]:
        """The end of each log, by the part's name."""
        logs = sorted((self.folder / "logs").glob("*.log"))
        texts = [(log.stem, log.read_text(errors="replace").splitlines()) for log in logs]
        return [(name, "\n".join(text[-lines:])) for name, text in texts]

    # --- load -------------------------------------------------------------------------------

    @asynccontextmanager
    async def under_load(
        self,
        *,
        unary: int = times(8, soaking=32),
        streams: int = times(2, soaking=4),
        traffic: bool = False,
    ) -> "AsyncIterator[Scene]":
        """Start from a mesh that is well, and keep clients busy while the context lasts.

        When it ends, requests in flight have come to their end, and are counted.

        Args:
            unary: clients that ask one question after the other.
            streams: clients that let one generation follow the other.
            traffic: whether the timeline shows who answers, too; Envoy is asked 50 times a second.
        """
        await self.well()
        mesh = self.now
        reference = mesh.instances[0].triton.grpc
        clients = load.load(
            mesh.envoy.grpc, reference, unary=unary, streams=streams, pause=pause(unary)
        )
        async with timeline.follow(mesh, traffic=traffic) as seen, clients as running:
            scene = Scene(self, seen, running)
            await until(lambda: seen.primary, "a primary")
            await scene.flows()
            yield scene


@dataclass
class Scene:
    """A loaded mesh to which something is done."""

    mesh: LiveMesh
    timeline: timeline.Timeline
    load: load.Load

    @property
    def primary(self) -> str:
        assert self.timeline.primary is not None
        return self.timeline.primary

    async def flows(self, answers: int = 100) -> None:
        """Wait until each kind of client has got some more answers."""
        unary, streams = self.load.unary, self.load.streams
        before = len(unary.done), len(streams.done)
        await until(
            lambda: len(unary.done) >= before[0] + answers and len(streams.done) > before[1],
            "answers for all clients",
        )

    async def becomes(self, instance: str, status: str) -> None:
        """Wait until Consul has this status for an instance."""
        await until(lambda: self.timeline.verdicts.get(instance) == status, f"{instance} {status}")

    async def succeeded(self, victim: str, epoch: int) -> str:
        """Wait until another instance is primary, with a higher epoch; gives its id."""

        def succeeded() -> bool:
            new = self.timeline.primary
            return new not in (None, victim) and self.timeline.epoch > epoch

        await until(succeeded, f"a primary after {victim} of epoch {epoch}")
        return self.primary

    def primaries(self, after: float) -> list[str]:
        """The instances that took the lock after a moment, in order."""
        return self._who("primary", after)

    def answering(self, after: float) -> set[str]:
        """The instances that answered requests after a moment, if the load follows `traffic`."""
        return set(self._who("traffic", after))

    def _who(self, kind: str, after: float) -> list[str]:
        seen = self.timeline.sightings
        return [found.instance for found in seen if found.kind == kind and found.at >= after]


def unharmed(running: load.Load, *, streams: bool = True) -> None:
    """No request failed and no answer was wrong; a generation may be cut only if so said."""
    assert running.unary.failed == []
    assert running.unary.wrong == []
    assert running.streams.wrong == []
    if streams:
        assert running.streams.failed == []
    assert running.unary.done
