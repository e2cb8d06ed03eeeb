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
from sidecar.drill.cluster.clocks import WallClocks, settable_clocks
from sidecar.drill.cluster.grants import Grants
from sidecar.drill.cluster.layout import (
    EDGE,
    OPEN,
    PORTS,
    TRITON,
    TRITON_HTTP,
    Consul,
    Layout,
    Overrides,
    build,
    named,
)
from sidecar.drill.cluster.network_namespaces import NetworkNamespaces, network_namespaces
from sidecar.drill.cluster.port_forwarding import forwarded_ports
from sidecar.drill.cluster.small_disk import ordinary_disk, small_disk
from sidecar.drill.cluster.stage import ClusterStage
from sidecar.drill.cluster.supervisor import Supervisor, supervise
from sidecar.drill.scenario import Need
from sidecar.drill.stage.dead_mans_switch import without_blocking
from sidecar.local import assets, launch, load, meshfile
from sidecar.local.meshfile import EnvoyAddresses, Mesh
from sidecar.local.planning.plan import MeshOptions, Part
from sidecar.local.programs import parts
from sidecar.runtime.errors import Unavailable

MODELS = (load.UNARY, load.STREAM)
StageT = TypeVar("StageT", bound=ClusterStage)


@asynccontextmanager
async def cluster(
    folder: Path,
    *,
    instances: int = 3,
    servers: int = 3,
    settings: Overrides | None = None,
    models: Sequence[str] = MODELS,
    acl: bool = False,
    clocks: bool = False,
) -> AsyncIterator[ClusterStage]:
    """Run a cluster during the context; it is healthy when the context begins.

    Args:
        folder: an empty one, absolute; the logs stay there.
        instances: hosts with an agent, a Triton and a sidecar.
        servers: Consul servers.
        settings: tables merged into those of the sidecars and of the control plane, such as
            `Overrides({"election": {"session_ttl": "15s"}})`.
        models: names of folders in triton_models that every Triton serves.
        acl: whether Consul denies what no token permits, and every part has its own.
        clocks: whether the clocks of sidecars and the control plane can be set, if possible.

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
        settings or Overrides(),
    )
    async with run(layout, ClusterStage, grants, disk=True, clocks=clocks) as running:
        meshfile.write_whole(folder / meshfile.NAME, meshfile.dumps(running.now))
        yield running


@asynccontextmanager
async def run(
    layout: Layout,
    stage: Callable[[Layout, NetworkNamespaces, Mapping[str, Supervisor], Mesh], StageT],
    grants: Grants | None = None,
    *,
    disk: bool = False,
    clocks: bool = False,
) -> AsyncIterator[StageT]:
    """Run what a layout says during the context, which begins after the stage's `begin`.

    Args:
        layout: its files are written first.
        stage: made of it, and what runs.
        grants: the tokens of the parts, or None if Consul permits everything.
        disk: whether it is on a disk that can become full, if possible.
        clocks: whether the clocks of sidecars and the control plane can be set, if possible.
            What is not possible is in `lacking` of the stage.

    Raises:
        PartMissing: namespaces cannot be created.
        Unavailable: it did not begin.
    """
    folder = layout.mesh.options.folder
    _write(layout, grants.files(folder) if grants else {})
    prefixes = [part.shm_prefix for _, part in layout.parts if part.shm_prefix]
    lacking: dict[Need, str] = {}
    async with AsyncExitStack() as stack:
        set_by = await _clocks(stack, folder, lacking) if clocks else None
        memory = set_by.memory if set_by else ()
        stack.enter_context(cleanup_on_exit(layout.mesh.id, prefixes, memory))
        namespaces = await stack.enter_async_context(network_namespaces(layout.members))
        await _disk(stack, folder, namespaces if disk else None, lacking)
        mesh = stack.enter_context(_with_forwarded_ports(layout, namespaces))
        supervisors = _supervisors(layout, namespaces, set_by)
        running = stage(layout, namespaces, supervisors, mesh)
        offered: dict[Need, bool] = {"disk": disk, "clock": clocks}
        running.further = frozenset(need for need in offered if offered[need]) - lacking.keys()
        running.lacking = lacking
        await stack.enter_async_context(_supervised(running, supervisors, grants))
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


@asynccontextmanager
async def _supervised(
    running: ClusterStage, supervisors: Mapping[str, Supervisor], grants: Grants | None
) -> AsyncIterator[None]:
    """Keep all parts running; those that need a token begin when it exists."""
    # An agent remembers for a while that there is no such token.
    waiting = [one for name, one in supervisors.items() if grants and name not in running.servers]
    for one in waiting:
        one.hold_down()
    supervising = asyncio.create_task(supervise(supervisors.values()), name="supervise")
    try:
        if grants:
            await grants.grant(running.now.consul.http)
        for one in waiting:
            one.release()
        yield
    finally:
        await _end(supervising)


async def _clocks(
    stack: AsyncExitStack, folder: Path, lacking: dict[Need, str]
) -> WallClocks | None:
    """Clocks that can be set until the stack is closed; None if they cannot, and why."""
    try:
        set_by = settable_clocks(folder, parts.faketime())
        return await stack.enter_async_context(without_blocking(set_by))
    except Unavailable as error:
        lacking["clock"] = str(error)
        return None


async def _disk(
    stack: AsyncExitStack,
    folder: Path,
    namespaces: NetworkNamespaces | None,
    lacking: dict[Need, str],
) -> None:
    """A disk that can become full until the stack is closed; else an ordinary one, and why."""
    if namespaces:
        try:
            made = small_disk(folder, namespaces.enter_hub())
            await stack.enter_async_context(without_blocking(made))
            return
        except Unavailable as error:
            lacking["disk"] = str(error)
    ordinary_disk(folder)


def _write(layout: Layout, tokens: Mapping[Path, str]) -> None:
    for path, text in {**layout.files, **tokens}.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for place, target in layout.mesh.links.items():
        place.symlink_to(target)
    for place, model in layout.mesh.copies.items():
        shutil.copytree(model, place, ignore=shutil.ignore_patterns("__*__"))


def _supervisors(
    layout: Layout, namespaces: NetworkNamespaces, set_by: WallClocks | None
) -> Mapping[str, Supervisor]:
    """The supervisor of each part, which runs in its namespace with its clock."""
    clocked = ((where, set_by.of(part) if set_by else part) for where, part in layout.parts)
    placed = (_within(namespaces.enter(where), part) for where, part in clocked)
    return {part.name: Supervisor(part) for part in placed}


def _within(inside: tuple[str, ...], part: Part) -> Part:
    return replace(part, argv=(*inside, *part.argv))


async def _end(supervising: asyncio.Task[None]) -> None:
    supervising.cancel()
    with suppress(asyncio.CancelledError):
        await supervising
