"""A running cluster as the stage of drills: operations on its parts and networks, and its health.

    async with cluster(folder) as stage:
        stage.cut(same_host(await stage.primary(), "host"), "consul")
        ...
        stage.heal()
        await stage.steady()

Parts are `server-N`, and on host N `agent-N`, `triton-N` and `sidecar-N`; at the edge `agent-edge`,
`xds` and `envoy`. A part that dies is restarted after a second. Namespaces are `server-N`,
`host-N` and `edge`; an instance's id is that of its Triton.

Acts: asyncio, os, signal.
"""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from typing import Literal

from sidecar.drill.cluster import impairment
from sidecar.drill.cluster.impairment import Impairment
from sidecar.drill.cluster.layout import EDGE, PORTS, TRITON, Layout, same_host
from sidecar.drill.cluster.network_namespaces import NETWORKS, Network, NetworkNamespaces
from sidecar.drill.cluster.supervisor import Supervisor
from sidecar.drill.load.process import Asked, Place, RunningLoad, load
from sidecar.drill.load.spec import LoadSpec
from sidecar.drill.scenario import Need
from sidecar.drill.stage.mesh import MeshStage
from sidecar.drill.stage.waiting import until
from sidecar.local import consul_view
from sidecar.local.meshfile import Mesh
from sidecar.local.planning.plan import token_file
from sidecar.runtime.errors import Rejected, Unavailable

_CONTROL_PLANE = "triton-sidecar-xds"
_LOOK = 3.0  # seconds for one read from Consul

Cut = Literal["consul", "data", "both"]


class ClusterStage(MeshStage):
    """A running cluster; the addresses in `now` are local ports that are forwarded to it.

    `further` is what it offers and not every cluster does.
    """

    def __init__(
        self,
        layout: Layout,
        namespaces: NetworkNamespaces,
        supervisors: Mapping[str, Supervisor],
        mesh: Mesh,
    ) -> None:
        super().__init__(layout.mesh.options.folder)
        self.layout, self.namespaces = layout, namespaces
        self._supervisors, self._mesh = supervisors, mesh
        self.further: frozenset[Need] = frozenset()

    @property
    def offers(self) -> frozenset[Need]:
        """What scenarios may need of it."""
        return super().offers | frozenset[Need]({"hosts", "servers"}) | self.further

    @property
    def now(self) -> Mesh:
        """The cluster as a mesh; its Consul address leads to the first server that accepts."""
        return self._mesh.with_pids(
            os.getpid(), {name: each.pid for name, each in self._supervisors.items()}
        )

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of all parts."""
        return tuple(self._supervisors)

    @property
    def agents(self) -> tuple[str, ...]:
        """The names of all client agents."""
        return tuple(name for name in self._supervisors if name.startswith("agent"))

    @property
    def servers(self) -> tuple[str, ...]:
        """The names of all Consul servers."""
        return tuple(name for name in self._supervisors if name.startswith("server"))

    def running(self, part: str) -> int | None:
        """The pid of a part, or None while it is not running."""
        return self._supervisors[part].pid

    def starts(self, part: str) -> int:
        """How often a part was started."""
        return self._supervisors[part].starts

    async def begin(self) -> None:
        """Wait until the cluster is healthy for the first time.

        Raises:
            Unavailable: it is not; has the end of the log of every part that was restarted.
        """
        try:
            await self.steady()
        except Unavailable as error:
            for part, text in self.tails(5):
                if self._supervisors[part].starts > 1:
                    error.add_note(f"end of the log of {part}:\n{text}")
            raise

    # --- operations on parts --------------------------------------------------------------------

    def kill(self, part: str) -> None:
        """SIGKILL a part, which is restarted after a second."""
        self._supervisors[part].send(signal.SIGKILL)

    def restart(self, part: str) -> None:
        """SIGTERM a part, which is restarted a second after its end."""
        self._supervisors[part].send(signal.SIGTERM)

    def freeze(self, part: str) -> None:
        """SIGSTOP a part and all that it started."""
        self._supervisors[part].send_to_all(signal.SIGSTOP)

    def thaw(self, part: str) -> None:
        """Undo `freeze`."""
        self._supervisors[part].send_to_all(signal.SIGCONT)

    async def maintain(self, instance: str, enable: bool) -> None:
        """Put an instance into maintenance mode, or end it, at the agent on its own host.

        Raises:
            Rejected: the agent does not know the instance, or does not answer.
        """
        command = (
            *self.namespaces.enter(same_host(instance, "host")),
            *(self._program(same_host(instance, "agent")), "maint", f"-service={instance}"),
            *(f"-http-addr=127.0.0.1:{PORTS.consul_http}", "-enable" if enable else "-disable"),
        )
        process = await asyncio.create_subprocess_exec(
            *command, env=self._with_token("management"), stdin=DEVNULL, stdout=PIPE, stderr=STDOUT
        )
        output, _ = await process.communicate()
        if process.returncode:
            raise Rejected(f"`consul maint` for {instance}: {output.decode().strip()}")

    def _program(self, part: str) -> str:
        """The program that a part runs."""
        [found] = [each.argv[0] for _, each in self.layout.parts if each.name == part]
        return found

    @contextmanager
    def away(self, *parts: str) -> Iterator[None]:
        """Kill parts, and do not restart them until the context ends."""
        try:
            for part in parts:
                self._supervisors[part].hold_down()
                self.kill(part)
            yield
        finally:
            for part in parts:
                self._supervisors[part].release()

    # --- operations on networks ---------------------------------------------------------------

    def cut(self, member: str, what: Cut) -> None:
        """Disconnect a namespace from one network, or from both."""
        for network in self.networks(what):
            self.namespaces.cut(member, network)

    def join(self, member: str, what: Cut) -> None:
        """Undo `cut`, or do nothing."""
        for network in self.networks(what):
            self.namespaces.join(member, network)

    @staticmethod
    def networks(what: Cut) -> tuple[Network, ...]:
        """The networks that are meant."""
        return NETWORKS if what == "both" else (what,)

    def impaired(
        self,
        member: str,
        network: Network,
        *,
        loss: float = 0.0,
        loss_in: float = 0.0,
        delay: float = 0.0,
    ) -> AbstractAsyncContextManager[None]:
        """Lose and delay packets between a namespace and a network while the context lasts.

        Args:
            member: the namespace.
            network: its network.
            loss: the share of packets lost each way, 0 to 1.
            loss_in: the share of those lost as well that the namespace receives.
            delay: seconds by which each packet is delayed each way.
        """
        return impairment.impaired(
            self.namespaces, member, network, Impairment(loss, max(loss, loss_in), delay)
        )

    # --- reads --------------------------------------------------------------------------------

    async def leader(self) -> str:
        """The Consul server that is leader.

        Raises:
            Unavailable: there is none.
        """
        said = json.loads(await self._ask("status/leader"))
        for member in self.layout.members:
            if said.partition(":")[0] == member.address("consul"):
                return member.name
        raise Unavailable("no Consul server leads")

    async def other_leader(self, than: str) -> str:
        """Wait until another Consul server is leader; gives its name."""
        found = than

        async def another() -> bool:
            nonlocal found
            with suppress(Unavailable):
                found = await self.leader()
            return found != than

        await until(another, f"a leader other than {than}")
        return found

    async def _ask(self, path: str) -> str:
        try:
            async with asyncio.timeout(_LOOK):
                return await self.consul("GET", path)
        except (Rejected, TimeoutError) as error:
            raise Unavailable(f"Consul: {path}: {error!r}") from error

    async def _missing(self) -> str:
        dead = [name for name, each in self._supervisors.items() if each.pid is None]
        if dead:
            return f"not running: {', '.join(dead)}"
        await self._ask("operator/autopilot/health")  # fails unless all servers are healthy
        async with consul_view.connect(self.now) as consul, asyncio.timeout(_LOOK):
            planes = (await consul.health_service(_CONTROL_PLANE)).value
            instances = await consul_view.observe(consul)
        unhealthy = [
            f"{entry.id} is {entry.status}" for entry in planes if entry.status != "passing"
        ]
        unhealthy += [f"{one.id}: {one.reason}" for one in instances.values() if one.reason]
        if unhealthy or not planes or len(instances) < len(self._mesh.instances):
            return "; ".join(unhealthy) or f"the catalog has {instances} and {planes}"
        roles = {one.id: one.role for one in instances.values()}
        if list(roles.values()).count("primary") != 1:
            return f"expected one primary, found {roles}"
        return await self.missing_in_envoy(roles)

    # --- load and commands --------------------------------------------------------------------

    def loaded(
        self, spec: LoadSpec, *, began: float, seed: int, cached: bool = False
    ) -> AbstractAsyncContextManager[RunningLoad]:
        """Put load on it, from the edge through Envoy, while the context lasts."""
        self.spec = spec
        return load(
            spec,
            self.layout.front,
            f"{self.layout.address('host-0')}:{TRITON}",
            Place(self.log("load"), self.namespaces.enter(EDGE), self.layout.parts[0][1].env),
            began=began,
            seed=seed,
            asked=Asked(cached=cached),
        )

    def command_line(self, *arguments: str) -> tuple[tuple[str, ...], Mapping[str, str]]:
        """`triton-sidecar` at the edge, where Consul's agent is at its usual address."""
        command = (*self.namespaces.enter(EDGE), sys.executable, "-m", "sidecar", *arguments)
        return command, self._with_token("operator")

    def _with_token(self, role: str) -> Mapping[str, str]:
        """The environment of a program that asks Consul, with the token of a role if it has one."""
        env, file = self.layout.parts[0][1].env, token_file(self.layout.mesh.options, role)
        return {**env, "CONSUL_HTTP_TOKEN_FILE": str(file)} if file else env
