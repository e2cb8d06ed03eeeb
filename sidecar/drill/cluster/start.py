"""Starts a cluster: its files, its namespaces, its parts; and ends all of it.

Acts: asyncio, os, shutil.
"""

import asyncio
import os
import secrets
import shutil
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from sidecar.drill.cluster.cleanup_on_exit import cleanup_on_exit
from sidecar.drill.cluster.grants import Grants
from sidecar.drill.cluster.layout import (
    EDGE,
    OPEN,
    PORTS,
    TRITON,
    TRITON_HTTP,
    Consul,
    Layout,
    Settings,
    build,
    named,
)
from sidecar.drill.cluster.network_namespaces import NetworkNamespaces, network_namespaces
from sidecar.drill.cluster.port_forwarding import forwarded_ports
from sidecar.drill.cluster.stage import ClusterStage
from sidecar.drill.cluster.supervisor import Supervisor, supervise
from sidecar.local import assets, launch, load, meshfile
from sidecar.local.meshfile import EnvoyAddresses, Mesh
from sidecar.local.planning.plan import MeshOptions, Part

MODELS = (load.UNARY, load.STREAM)
StageT = TypeVar("StageT", bound=ClusterStage)


@asynccontextmanager
async def cluster(
    folder: Path,
    *,
    instances: int = 3,
    servers: int = 3,
    settings: Settings | None = None,
    models: Sequence[str] = MODELS,
    acl: bool = False,
) -> AsyncIterator[ClusterStage]:
    """Run a cluster during the context; it is healthy when the context begins.

    Args:
        folder: an empty one, absolute; the logs stay there.
        instances: hosts with an agent, a Triton and a sidecar.
        servers: Consul servers.
        settings: tables merged into those of the sidecars and of the control plane, such as
            `Settings({"election": {"session_ttl": "15s"}})`.
        models: names of folders in triton_models that every Triton serves.
        acl: whether Consul denies what no token permits, and every part has its own.

    Raises:
        PartMissing: a program is missing, or namespaces cannot be created.
        Unavailable: the cluster is not healthy in time, or its Consul grants no tokens.
    """
    served = tuple(assets.folder("triton_models") / name for name in models)
    options = MeshOptions(
        folder=folder, instances=instances, models=served, demo_models=False, acl=acl
    )
    programs, sources = launch.find_programs(), launch.read_sources(options)
    consul = assets.folder("consul")
    texts = (consul / "server.hcl").read_text(), (consul / "client.hcl").read_text()
    grants = Grants(str(uuid.uuid4())) if acl else None
    layout = build(
        secrets.token_hex(4),
        options,
        programs,
        sources,
        Consul(servers, *texts, grants.agent if grants else OPEN),
        os.environ,
        settings or Settings(),
    )
    async with run(layout, ClusterStage, grants) as running:
        meshfile.write_whole(folder / meshfile.NAME, meshfile.dumps(running.now))
        yield running


@asynccontextmanager
async def run(
    layout: Layout,
    stage: Callable[[Layout, NetworkNamespaces, Mapping[str, Supervisor], Mesh], StageT],
    grants: Grants | None = None,
) -> AsyncIterator[StageT]:
    """Run what a layout says during the context, which begins after the stage's `begin`.

    Raises:
        PartMissing: namespaces cannot be created.
        Unavailable: it did not begin.
    """
    _write(layout, grants.files(layout.mesh.options.folder) if grants else {})
    prefixes = [part.shm_prefix for _, part in layout.parts if part.shm_prefix]
    async with AsyncExitStack() as stack:
        stack.enter_context(cleanup_on_exit(layout.mesh.id, prefixes))
        namespaces = await stack.enter_async_context(network_namespaces(layout.members))
        mesh = stack.enter_context(_with_forwarded_ports(layout, namespaces))
        placed = [_within(namespaces.enter(where), part) for where, part in layout.parts]
        supervisors = {part.name: Supervisor(part) for part in placed}
        running = stage(layout, namespaces, supervisors, mesh)
        # An agent remembers for a while that there is no such token.
        waiting = [
            one for name, one in supervisors.items() if grants and name not in running.servers
        ]
        for one in waiting:
            one.hold_down()
        supervising = asyncio.create_task(supervise(supervisors.values()), name="supervise")
        stack.push_async_callback(_end, supervising)
        if grants:
            await grants.grant(mesh.consul.http)
        for one in waiting:
            one.release()
        await running.begin()
        yield running


@contextmanager
def _with_forwarded_ports(layout: Layout, namespaces: NetworkNamespaces) -> Iterator[Mesh]:
    """The cluster's addresses, with ports forwarded to what is asked from here."""
    plain = layout.mesh.mesh
    servers = [member.address("consul") for member in layout.members if "server" in member.name]
    hosts = [layout.address(host) for host in named("host", len(plain.instances))]
    targets = (
        [f"{server}:{PORTS.consul_http}" for server in servers],
        [f"127.0.0.1:{PORTS.envoy_admin}"],
        [layout.front],
        [f"127.0.0.1:{PORTS.xds}"],
        *([f"{address}:{TRITON_HTTP}"] for address in hosts),
    )
    with forwarded_ports(namespaces.enter(EDGE), targets) as (consul, admin, envoy, xds, *https):
        instances = tuple(
            replace(own, triton=replace(own.triton, grpc=f"{address}:{TRITON}", http=http))
            for own, address, http in zip(plain.instances, hosts, https, strict=True)
        )
        yield replace(
            plain,
            consul=replace(plain.consul, http=consul, ui=f"http://{consul}/ui/"),
            envoy=EnvoyAddresses(envoy, admin),
            xds=replace(plain.xds, address=xds),
            instances=instances,
        )


def _write(layout: Layout, tokens: Mapping[Path, str]) -> None:
    for path, text in {**layout.files, **tokens}.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for place, target in layout.mesh.links.items():
        place.symlink_to(target)
    for place, model in layout.mesh.copies.items():
        shutil.copytree(model, place, ignore=shutil.ignore_patterns("__*__"))


def _within(inside: tuple[str, ...], part: Part) -> Part:
    return replace(part, argv=(*inside, *part.argv))


async def _end(supervising: asyncio.Task[None]) -> None:
    supervising.cancel()
    with suppress(asyncio.CancelledError):
        await supervising
