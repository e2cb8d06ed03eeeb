"""A running mesh as the stage of drills: operations on its parts, and checks of its state.

    stage = MeshStage(folder)
    await stage.steady()
    with stage.frozen(await stage.primary()):
        ...

Parts are `consul`, `xds`, `envoy`, `triton-N` and `sidecar-N`; an instance's id is that of its
Triton. A part that ends is restarted by the mesh's supervisor.

Acts: os, signal.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidecar.drill import environment
from sidecar.drill.environment import Surroundings
from sidecar.drill.load.process import Asked, Place, RunningLoad, load
from sidecar.drill.load.spec import LoadSpec, OpenLoop
from sidecar.drill.misbehaving_models import CACHED, MORTAL, UNARY
from sidecar.drill.scenario import Need
from sidecar.drill.stage import envoy_hosts, http
from sidecar.drill.stage.dead_mans_switch import WITHIN, thawed_at_the_end
from sidecar.drill.stage.envoy_hosts import Host
from sidecar.drill.stage.observation import Observation, observed
from sidecar.drill.stage.waiting import PATIENCE, until
from sidecar.local import consul_view, control, meshfile
from sidecar.local.meshfile import InstanceAddresses, Mesh
from sidecar.local.planning.plan import SERVICE
from sidecar.local.processes import process
from sidecar.registry.registration import COLD
from sidecar.runtime.errors import SidecarError, Unavailable
from sidecar.runtime.threads import in_daemon_thread

_SURVIVORS = 3  # instances of which one survives two victims
_PAUSE = 0.2  # seconds between two checks of a whole mesh, which take a while themselves


@dataclass
class MeshStage:
    """A running mesh. Addresses are fixed; pids are read each time, because parts restart.

    `spec` is the load that was put on it last. `lacking` says why it does not offer something, as
    far as that is known.
    """

    folder: Path
    spec: LoadSpec = field(default=OpenLoop(), init=False, compare=False)
    lacking: Mapping[Need, str] = field(default_factory=dict, init=False, compare=False)

    @property
    def offers(self) -> frozenset[Need]:
        """What scenarios may need of it."""
        instances = self.now.instances
        served = (home := self.folder / instances[0].id) / "models"
        found: set[Need] = {"processes"}
        if (served / UNARY).is_dir():
            found.add("models")
        if (served / CACHED).is_dir() and (home / "caches").is_dir():
            found.add("cache")
        if (served / MORTAL).is_dir() and len(instances) >= _SURVIVORS:
            found.add("mortal")
        return frozenset(found)

    @property
    def now(self) -> Mesh:
        """Its addresses and its present pids."""
        return meshfile.load(self.folder)

    async def surroundings(self) -> Surroundings:
        """What a record says about it.

        Raises:
            SidecarError: a part of it does not answer.
        """
        return await environment.of_mesh(self.now)

    # --- parts --------------------------------------------------------------------------------

    def running(self, part: str) -> int | None:
        """The process of a part, if there is one."""
        mesh = self.now
        parts = {"consul": mesh.consul.pid, "xds": mesh.xds.pid, "envoy": mesh.envoy.pid}
        for number, instance in enumerate(mesh.instances):
            parts |= {f"triton-{number}": instance.triton.pid}
            parts |= {f"sidecar-{number}": instance.sidecar.pid}
        return parts[part]

    def pid(self, part: str) -> int:
        """The process of a part, which is the leader of its group.

        Raises:
            Unavailable: it is not running.
        """
        pid = self.running(part)
        if pid is None:
            raise Unavailable(f"{part} is not running")
        return pid

    @staticmethod
    def sidecar_of(instance: str) -> str:
        """The part that is an instance's sidecar."""
        return instance.replace(SERVICE, "sidecar")

    def instance(self, name: str) -> InstanceAddresses:
        """The addresses of an instance."""
        return self.now.instance(name)

    def signal(self, part: str, number: signal.Signals) -> int:
        """Send a signal to a part's leader; gives its pid."""
        pid = self.pid(part)
        os.kill(pid, number)
        return pid

    @contextmanager
    def frozen(self, part: str) -> Iterator[None]:
        """A part with all its processes, stopped as by a debugger; thawed if this process dies."""
        group = self.pid(part)
        with thawed_at_the_end(member.pid for member in process.members(group)):
            try:
                os.killpg(group, signal.SIGSTOP)
                yield
            finally:
                with suppress(ProcessLookupError):  # its sidecar killed it
                    os.killpg(group, signal.SIGCONT)

    @contextmanager
    def unsupervised(self, within: float = WITHIN) -> Iterator[None]:
        """No part is restarted, and one that ends leaves its exit status.

        It ends with the block or this process, and after `within` seconds in any case.

        Raises:
            Unavailable: the mesh has no supervisor, or this process is it, as of a cluster.
        """
        supervisor = self.now.supervisor
        if supervisor in (None, os.getpid()):
            raise Unavailable("the mesh has no supervisor other than this process")
        with thawed_at_the_end([supervisor], within):
            os.kill(supervisor, signal.SIGSTOP)
            yield

    # --- state --------------------------------------------------------------------------------

    async def steady(self, patience: float = PATIENCE) -> None:
        """Wait for the steady state: every part healthy, one primary, and Envoy agrees.

        Raises:
            Unavailable: it was not reached; the message says what is missing.
        """
        last = "it was not checked"

        async def reached() -> bool:
            nonlocal last
            try:
                last = await self._missing()
            except (SidecarError, OSError, ValueError) as error:
                last = repr(error)
            return not last

        try:
            await until(reached, "", patience=patience, pause=_PAUSE)
        except Unavailable:
            raise Unavailable(f"the mesh is not healthy after {patience:g} s: {last}") from None

    async def _missing(self) -> str:
        """What the steady state lacks, or nothing; cheap checks come first."""
        async with consul_view.connect(self.now) as consul:
            listed = await consul_view.observe(consul)
        failing = [one for one in listed.values() if one.status not in consul_view.HEALTHY]
        if failing:
            return "; ".join(f"{one.id} is {one.status}: {one.reason}" for one in failing)
        found = await in_daemon_thread(lambda: control.status(self.folder), "status")
        faults = [f"{part.state.name} {part.answer}" for part in found.parts if not part.well]
        cold = {seen.id for seen in found.instances.values() if seen.status == COLD}
        with_reason = [seen for seen in found.instances.values() if seen.reason]
        faults += [f"{seen.id} {seen.reason}" for seen in with_reason if seen.id not in cold]
        if faults or not found.well:
            return "; ".join(faults) or str(found.instances)
        roles = {seen.id: seen.role for seen in found.instances.values()}
        return await self.missing_in_envoy(roles, cold)

    async def missing_in_envoy(
        self, roles: Mapping[str, str], cold: frozenset[str] | set[str] = frozenset()
    ) -> str:
        """How the catalog's tags and Envoy's endpoints differ from roles, or nothing."""
        if (tags := await self._tags()) != roles:
            return f"the catalog's tags say {tags}, the lock {roles}"
        hosts = {name: host for name, host in (await self.hosts()).items() if name not in cold}
        expected = {
            name: 0 if role == "primary" else 1 for name, role in roles.items() if name not in cold
        }
        if {name: host.priority for name, host in hosts.items()} != expected:
            return f"Envoy has {hosts}, expected priorities {expected}"
        unusable = {name: host for name, host in hosts.items() if not host.usable}
        return f"Envoy avoids {unusable}" if unusable else ""

    async def _tags(self) -> dict[str, str]:
        async with consul_view.connect(self.now) as consul:
            entries = (await consul.health_service(SERVICE)).value
        return {entry.id: entry.tags[0] if entry.tags else "" for entry in entries}

    async def healthy(self) -> frozenset[str]:
        """The instances that are healthy according to Consul."""
        async with consul_view.connect(self.now) as consul:
            seen = await consul_view.observe(consul)
        return frozenset(one.id for one in seen.values() if one.status in ("passing", "warning"))

    async def primary(self) -> str:
        """The instance that holds the lock, once there is one."""
        found: list[str] = []

        async def alone() -> bool:
            async with consul_view.connect(self.now) as consul:
                instances = await consul_view.observe(consul)
            found[:] = [seen.id for seen in instances.values() if seen.role == "primary"]
            return len(found) == 1

        await until(alone, "one primary")
        return found[0]

    async def standby(self) -> str:
        """The first instance that is not primary."""
        primary = await self.primary()
        return next(one.id for one in self.now.instances if one.id != primary)

    async def reason(self, instance: str) -> str:
        """Why an instance is unhealthy according to Consul: the output of its failing checks."""
        async with consul_view.connect(self.now) as consul:
            seen = (await consul_view.observe(consul)).get(instance)
        return seen.reason if seen else "not in the catalog"

    async def hosts(self) -> dict[str, Host]:
        """The instances that Envoy has, by id."""
        mesh = self.now
        names = {instance.triton.grpc: instance.id for instance in mesh.instances}
        text = await http.request("GET", f"http://{mesh.envoy.admin}/clusters?format=json")
        return envoy_hosts.read(text, SERVICE, names)

    async def avoided(self, instance: str, *, idle: bool = False) -> None:
        """Wait until Envoy sends an instance no new request, and with `idle` has none there."""

        async def left() -> bool:
            host = (await self.hosts()).get(instance)
            return host is None or not (host.usable or (idle and host.active))

        await until(left, f"Envoy avoids {instance}")

    async def checks(self, instance: str) -> set[str]:
        """The statuses in Consul of an instance's own checks: its verdict, and its sidecar's."""
        found = json.loads(await self.consul("GET", f"health/checks/{SERVICE}"))
        own = (f"{instance}:verdict", f"{instance}:sidecar")
        return {check["Status"] for check in found if check["CheckID"] in own}

    # --- what an operator could do ------------------------------------------------------------

    async def maintain(self, instance: str, enable: bool) -> None:
        """Put an instance into maintenance mode, or end it."""
        flag = str(enable).lower()
        await self.consul("PUT", f"agent/service/maintenance/{instance}?enable={flag}")

    async def repository(self, instance: str, model: str, verb: str) -> None:
        """Have a Triton `load` or `unload` a model."""
        address = self.instance(instance).triton.http
        await http.request("POST", f"http://{address}/v2/repository/models/{model}/{verb}")

    async def reloaded(self, instance: str, model: str) -> bool:
        """Unload and load a model; False while Triton cannot, as when its sidecar killed it."""
        try:
            await self.repository(instance, model, "unload")
            await self.repository(instance, model, "load")
        except SidecarError:
            return False
        return True

    async def consul(self, method: str, path: str, body: object = None) -> str:
        """A request to Consul that the sidecars do not know about, with the management token."""
        return await http.consul(self.now, method, path, body)

    # --- load and observation -----------------------------------------------------------------

    def observed(self) -> AbstractAsyncContextManager[Observation]:
        """Observe it while the context lasts."""
        return observed(self.now)

    def loaded(
        self, spec: LoadSpec, *, began: float, seed: int, cached: bool = False
    ) -> AbstractAsyncContextManager[RunningLoad]:
        """Put load on it, through Envoy, while the context lasts."""
        mesh, self.spec = self.now, spec
        reference = mesh.instances[0].triton.grpc
        place = Place(self.log("load"))
        return load(
            spec,
            mesh.envoy.grpc,
            reference,
            place,
            began=began,
            seed=seed,
            asked=Asked(cached=cached),
        )

    def command_line(self, *arguments: str) -> tuple[tuple[str, ...], Mapping[str, str] | None]:
        """`triton-sidecar` for this mesh, and its environment."""
        return (sys.executable, "-m", "sidecar", *arguments, f"--mesh={self.folder}"), None

    async def retries(self) -> int:
        """How many requests Envoy has sent to a further instance since it started."""
        url = f"http://{self.now.envoy.admin}/stats?filter={SERVICE}.upstream_rq_retry$"
        return int((await http.request("GET", url)).rpartition(":")[2] or 0)

    # --- logs ---------------------------------------------------------------------------------

    def log(self, part: str) -> Path:
        """The file that a part logs to."""
        return self.folder / "logs" / f"{part}.log"

    def events(self, sidecar: str, since: int = 0) -> list[dict[str, Any]]:
        """What a sidecar logged after that many bytes of its log."""
        whole, _, _ = self.log(sidecar).read_bytes()[since:].rpartition(b"\n")
        return [json.loads(line) for line in whole.splitlines() if line.startswith(b"{")]

    def written(self, part: str) -> int:
        """How many bytes its log has."""
        return self.log(part).stat().st_size

    def tails(self, lines: int = 40) -> list[tuple[str, str]]:
        """The end of each log, by the part's name."""
        logs = sorted((self.folder / "logs").glob("*.log"))
        texts = [(log.stem, log.read_text(errors="replace").splitlines()) for log in logs]
        return [(name, "\n".join(text[-lines:])) for name, text in texts]
