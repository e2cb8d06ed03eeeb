"""A running cluster: operations on its parts and networks, and checks of its health.

    async with cluster(folder) as mesh:
        async with mesh.under_load() as scene:
            mesh.cut(beside(scene.primary, "host"), "consul")
            await scene.succeeded(scene.primary, scene.timeline.epoch)
            mesh.heal()
            await mesh.steady()

Parts are `server-N`, and on host N `agent-N`, `triton-N` and `sidecar-N`; at the edge `agent-edge`,
`xds` and `envoy`. A part that dies is restarted after a second. Namespaces are `server-N`,
`host-N` and `edge`; an instance's id is that of its Triton.
"""

import asyncio
import json
import os
import secrets
import shutil
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

from sidecar.local import assets, consul_view, launch, load, meshfile, timeline
from sidecar.local.meshfile import ConsulAddresses, EnvoyAddresses, Mesh
from sidecar.local.planning.plan import MeshOptions, Part
from sidecar.local.processes import part_probe
from sidecar.runtime.errors import Unavailable
from tests.support.cluster.cleanup_on_exit import cleanup_on_exit
from tests.support.cluster.clients import clients
from tests.support.cluster.layout import (
    EDGE,
    PORTS,
    TRITON,
    AgentFiles,
    Layout,
    Tables,
    build,
    named,
)
from tests.support.cluster.network_namespaces import (
    NETWORKS,
    Network,
    NetworkNamespaces,
    network_namespaces,
)
from tests.support.cluster.port_forwarding import forwarded_ports
from tests.support.cluster.supervisor import Supervisor, supervise
from tests.support.mesh.mesh import LiveMesh, Scene
from tests.support.mesh.mesh_outside import until
from tests.support.soak import pause

MODELS = (load.UNARY, load.STREAM)
_CONTROL_PLANE = "triton-sidecar-xds"
_LOOK = 3.0  # seconds for one read from Consul

Cut = Literal["consul", "data", "both"]


class Cluster(LiveMesh):
    """A running cluster; the addresses in `now` are local ports that are forwarded to it."""

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

    def lives(self, part: str) -> int:
        """How often a part was started."""
        return self._supervisors[part].starts

    @property
    def crashes(self) -> Mapping[str, int]:
        """How often each part has crashed."""
        return {part: each.crashes for part, each in self._supervisors.items()}

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

    @contextmanager
    def away(self, *parts: str) -> Iterator[None]:
        """Kill parts, and do not restart them until the context ends."""
        for part in parts:
            self._supervisors[part].hold_down()
            self.kill(part)
        try:
            yield
        finally:
            for part in parts:
                self._supervisors[part].release()

    # --- operations on networks ---------------------------------------------------------------

    def cut(self, member: str, what: Cut) -> None:
        """Disconnect a namespace from one network, or from both."""
        for network in _networks(what):
            self.namespaces.cut(member, network)

    def heal(self) -> None:
        """Undo every `cut`."""
        for member in self.layout.members:
            for network in member.networks:
                self.namespaces.join(member.name, network)

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
        return await part_probe.get(f"http://{self._mesh.consul.http}/v1/{path}")

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

    # --- load ---------------------------------------------------------------------------------

    @asynccontextmanager
    async def under_load(
        self, *, unary: int = 3, streams: int = 2, traffic: bool = False
    ) -> AsyncIterator[Scene]:
        """Wait until the cluster is healthy, then run clients until the context ends.

        Requests in flight at its end are finished and counted.

        Args:
            unary: clients that send one unary request after the other.
            streams: clients that run one generation after the other.
            traffic: whether the timeline also shows which instance answers, by 50 reads
                of Envoy per second.
        """
        await self.steady()
        busy = clients(
            self.namespaces.enter(EDGE),
            self.layout.parts[0][1].env,
            self.folder / "logs" / "clients.log",
            f"127.0.0.1:{PORTS.envoy}",
            f"{self.layout.address('host-0')}:{TRITON}",
            unary=unary,
            streams=streams,
            pause=pause(unary),
        )
        following = timeline.follow(self.now, traffic=traffic)
        async with following as seen, busy as running:
            scene = Scene(self, seen, running)
            await until(lambda: seen.primary, "a primary")
            await scene.flows()
            yield scene


@asynccontextmanager
async def cluster(
    folder: Path, *, instances: int = 3, servers: int = 3, settings: Tables | None = None
) -> AsyncIterator[Cluster]:
    """Run a cluster during the context; it is healthy when the context begins.

    Args:
        folder: an empty one; the logs stay there.
        instances: hosts with an agent, a Triton and a sidecar.
        servers: Consul servers.
        settings: tables merged into those of every sidecar, such as
            `{"election": {"session_ttl": "15s"}}`.

    Raises:
        PartMissing: a program is missing, or namespaces cannot be created.
    """
    options = MeshOptions(folder=folder.absolute(), instances=instances)
    programs, sources = launch.find_programs(), launch.read_sources(options)
    sources = replace(sources, models={name: sources.models[name] for name in MODELS})
    consul = assets.folder("consul")
    agents = AgentFiles((consul / "server.hcl").read_text(), (consul / "client.hcl").read_text())
    layout = build(
        secrets.token_hex(4),
        options,
        programs,
        sources,
        agents,
        os.environ,
        settings or {},
        servers,
    )
    _write(layout)
    prefixes = [part.shm_prefix for _, part in layout.parts if part.shm_prefix]
    async with AsyncExitStack() as stack:
        stack.enter_context(cleanup_on_exit(layout.mesh.id, prefixes))
        namespaces = await stack.enter_async_context(network_namespaces(layout.members))
        mesh = stack.enter_context(_with_forwarded_ports(layout, namespaces))
        placed = [_within(namespaces.enter(where), part) for where, part in layout.parts]
        supervisors = {part.name: Supervisor(part) for part in placed}
        running = Cluster(layout, namespaces, supervisors, mesh)
        supervising = asyncio.create_task(supervise(supervisors.values()), name="supervise")
        stack.push_async_callback(_end, supervising)
        await running.begin()
        meshfile.write_whole(folder / meshfile.NAME, meshfile.dumps(running.now))
        yield running


@contextmanager
def _with_forwarded_ports(layout: Layout, namespaces: NetworkNamespaces) -> Iterator[Mesh]:
    """The addresses of the cluster, with ports that are forwarded to Consul and to Envoy."""
    servers = [member.address("consul") for member in layout.members if "server" in member.name]
    targets = (
        [f"{server}:{PORTS.consul_http}" for server in servers],
        [f"127.0.0.1:{PORTS.envoy_admin}"],
        [f"127.0.0.1:{PORTS.envoy}"],
    )
    with forwarded_ports(namespaces.enter(EDGE), targets) as (consul, admin, envoy):
        plain = layout.mesh.mesh
        instances = tuple(
            replace(own, triton=replace(own.triton, grpc=f"{layout.address(host)}:{TRITON}"))
            for own, host in zip(plain.instances, named("host", len(plain.instances)), strict=True)
        )
        yield replace(
            plain,
            consul=ConsulAddresses(http=consul, ui=f"http://{consul}/ui/"),
            envoy=EnvoyAddresses(envoy, admin),
            instances=instances,
        )


def _write(layout: Layout) -> None:
    for path, text in layout.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for place, target in layout.mesh.links.items():
        place.symlink_to(target)
    for place, model in layout.mesh.copies.items():
        shutil.copytree(model, place, ignore=shutil.ignore_patterns("__*__"))


def _within(inside: tuple[str, ...], part: Part) -> Part:
    return replace(part, argv=(*inside, *part.argv))


def _networks(what: Cut) -> tuple[Network, ...]:
    return NETWORKS if what == "both" else (what,)


async def _end(supervising: asyncio.Task[None]) -> None:
    supervising.cancel()
    with suppress(asyncio.CancelledError):
        await supervising
