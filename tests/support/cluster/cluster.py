"""A running cluster: operations on its parts and networks, and checks that it is healthy.

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
from tests.support.cluster.cleanup_on_exit import warded
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
from tests.support.cluster.network_namespaces import NETWORKS, Fabric, Network, fabric
from tests.support.cluster.port_forwarding import doors
from tests.support.cluster.supervisor import Keeper, keep
from tests.support.mesh.mesh import LiveMesh, Scene
from tests.support.mesh.mesh_outside import until
from tests.support.soak import pause

MODELS = (load.UNARY, load.STREAM)
_CONTROL_PLANE = "triton-sidecar-xds"
_LOOK = 3.0  # seconds for one question to Consul

Cut = Literal["consul", "data", "both"]


class Cluster(LiveMesh):
    """A running cluster; addresses in `now` lead in from this process's network, by doors."""

    def __init__(
        self, layout: Layout, fabric: Fabric, keepers: Mapping[str, Keeper], mesh: Mesh
    ) -> None:
        super().__init__(layout.mesh.options.folder)
        self.layout, self.fabric = layout, fabric
        self._keepers, self._mesh = keepers, mesh

    @property
    def now(self) -> Mesh:
        """The cluster as a mesh. Consul is the first server that answers."""
        return self._mesh.with_pids(
            os.getpid(), {name: keeper.pid for name, keeper in self._keepers.items()}
        )

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of all parts."""
        return tuple(self._keepers)

    @property
    def agents(self) -> tuple[str, ...]:
        """The names of all client agents."""
        return tuple(name for name in self._keepers if name.startswith("agent"))

    @property
    def servers(self) -> tuple[str, ...]:
        """The names of all Consul servers."""
        return tuple(name for name in self._keepers if name.startswith("server"))

    def running(self, part: str) -> int | None:
        """The process of a part, if there is one."""
        return self._keepers[part].pid

    def lives(self, part: str) -> int:
        """How often a part was started."""
        return self._keepers[part].lives

    @property
    def crashes(self) -> Mapping[str, int]:
        """How often each part has died without being killed."""
        return {part: keeper.crashes for part, keeper in self._keepers.items()}

    async def begin(self) -> None:
        """Wait until all is well for the first time.

        Raises:
            Unavailable: it does not come to be; with the log's end of every part that died.
        """
        try:
            await self.steady()
        except Unavailable as error:
            for part, text in self.tails(5):
                if self._keepers[part].lives > 1:
                    error.add_note(f"end of the log of {part}:\n{text}")
            raise

    # --- what is done to parts ----------------------------------------------------------------

    def kill(self, part: str) -> None:
        """SIGKILL to a part; it is started again after a second."""
        self._keepers[part].send(signal.SIGKILL)

    def restart(self, part: str) -> None:
        """SIGTERM to a part; it is started again a second after its end."""
        self._keepers[part].send(signal.SIGTERM)

    def freeze(self, part: str) -> None:
        """SIGSTOP to a part and all that it started."""
        self._keepers[part].send_to_all(signal.SIGSTOP)

    def thaw(self, part: str) -> None:
        """Undo `freeze`."""
        self._keepers[part].send_to_all(signal.SIGCONT)

    @contextmanager
    def away(self, *parts: str) -> Iterator[None]:
        """Parts are killed, and stay away while the context lasts."""
        for part in parts:
            self._keepers[part].keep_away()
            self.kill(part)
        try:
            yield
        finally:
            for part in parts:
                self._keepers[part].let_back()

    # --- what is done to networks -------------------------------------------------------------

    def cut(self, member: str, what: Cut) -> None:
        """Lose all that a namespace sends to, or is sent from, one network or both."""
        for network in _networks(what):
            self.fabric.cut(member, network)

    def heal(self) -> None:
        """Undo every `cut`."""
        for member in self.layout.members:
            for network in member.networks:
                self.fabric.join(member.name, network)

    # --- what is asked ------------------------------------------------------------------------

    async def leader(self) -> str:
        """The Consul server that leads.

        Raises:
            Unavailable: there is none.
        """
        said = json.loads(await self._ask("status/leader"))
        for member in self.layout.members:
            if said.partition(":")[0] == member.address("consul"):
                return member.name
        raise Unavailable("no Consul server leads")

    async def other_leader(self, than: str) -> str:
        """Wait until another Consul server leads; gives its name."""
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
        dead = [name for name, keeper in self._keepers.items() if keeper.pid is None]
        if dead:
            return f"not running: {', '.join(dead)}"
        await self._ask("operator/autopilot/health")  # refuses unless all servers are healthy
        async with consul_view.connect(self.now) as consul, asyncio.timeout(_LOOK):
            planes = (await consul.health_service(_CONTROL_PLANE)).value
            instances = await consul_view.observe(consul)
        sick = [f"{entry.id} is {entry.status}" for entry in planes if entry.status != "passing"]
        sick += [f"{one.id}: {one.reason}" for one in instances.values() if one.reason]
        if sick or not planes or len(instances) < len(self._mesh.instances):
            return "; ".join(sick) or f"the catalog has {instances} and {planes}"
        roles = {one.id: one.role for one in instances.values()}
        if list(roles.values()).count("primary") != 1:
            return f"expected one primary, found {roles}"
        return await self.missing_in_envoy(roles)

    # --- load ---------------------------------------------------------------------------------

    @asynccontextmanager
    async def under_load(
        self, *, unary: int = 3, streams: int = 2, traffic: bool = False
    ) -> AsyncIterator[Scene]:
        """Start from a cluster that is well, and keep clients busy while the context lasts.

        When it ends, requests in flight have come to their end, and are counted.

        Args:
            unary: clients that ask one question after the other.
            streams: clients that let one generation follow the other.
            traffic: whether the timeline shows who answers, too; Envoy is asked 50 times a second.
        """
        await self.steady()
        busy = clients(
            self.fabric.enter(EDGE),
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
    """A cluster that runs while the context lasts, and is well when it begins.

    Args:
        folder: an empty one; logs stay there.
        instances: hosts with an agent, a Triton and a sidecar.
        servers: Consul servers.
        settings: tables put over those of every sidecar, as `{"election": {"session_ttl": "15s"}}`.

    Raises:
        PartMissing: a program is not here, or namespaces cannot be had.
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
        stack.enter_context(warded(layout.mesh.id, prefixes))
        spaces = await stack.enter_async_context(fabric(layout.members))
        mesh = stack.enter_context(_entered(layout, spaces))
        placed = [_within(spaces.enter(where), part) for where, part in layout.parts]
        keepers = {part.name: Keeper(part) for part in placed}
        running = Cluster(layout, spaces, keepers, mesh)
        keeping = asyncio.create_task(keep(keepers.values()), name="keep")
        stack.push_async_callback(_end, keeping)
        await running.begin()
        meshfile.write_whole(folder / meshfile.NAME, meshfile.dumps(running.now))
        yield running


@contextmanager
def _entered(layout: Layout, spaces: Fabric) -> Iterator[Mesh]:
    """The addresses of the cluster, with doors to Consul and to Envoy."""
    servers = [member.address("consul") for member in layout.members if "server" in member.name]
    targets = (
        [f"{server}:{PORTS.consul_http}" for server in servers],
        [f"127.0.0.1:{PORTS.envoy_admin}"],
        [f"127.0.0.1:{PORTS.envoy}"],
    )
    with doors(spaces.enter(EDGE), targets) as (consul, admin, envoy):
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


async def _end(keeping: asyncio.Task[None]) -> None:
    keeping.cancel()
    with suppress(asyncio.CancelledError):
        await keeping
