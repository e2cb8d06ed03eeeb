"""The layout of a cluster: the plan of a local mesh, spread over namespaces.

Acts: through what it imports or is given.
"""

import dataclasses
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidecar.drill.cluster.network_namespaces import NETWORKS, Namespace
from sidecar.drill.cluster.small_disk import DISK
from sidecar.local.planning import layout, toml
from sidecar.local.planning.agent_config import Version
from sidecar.local.planning.agent_config import settings as agent_settings
from sidecar.local.planning.plan import (
    InstancePorts,
    MeshOptions,
    Part,
    Plan,
    Ports,
    Programs,
    Sources,
    instance_id,
)

EDGE, EDGE_AGENT = "edge", "agent-edge"
SESSION_TTL = 10  # seconds; the shortest that Consul takes

_EDGE = Namespace(EDGE, 201, NETWORKS)
EDGE_ADDRESS = _EDGE.address("data")

# Each namespace has all ports to itself.
_INSTANCE = InstancePorts(
    triton_grpc=8001, triton_http=8000, triton_metrics=8002, sidecar_grpc=9001, sidecar_metrics=9002
)
PORTS = Ports(
    consul_http=8500,
    consul_serf=8301,
    consul_server=8300,
    xds=18000,
    xds_metrics=18001,
    envoy=8080,
    envoy_admin=9901,
    instances=(_INSTANCE,),
)
TRITON, TRITON_HTTP = _INSTANCE.triton_grpc, _INSTANCE.triton_http

Tables = Mapping[str, Mapping[str, object]]

# The ACL part of an agent's settings, without ACLs.
OPEN: Mapping[str, object] = {"acl": {"enabled": False, "default_policy": "allow"}}


@dataclass(frozen=True, slots=True)
class Consul:
    """The Consul of a cluster: how many `servers`, and the settings' texts of those and of clients.

    The texts are those that this project ships. `acl` is that part of every agent's settings.
    """

    servers: int
    server: str
    client: str
    acl: Mapping[str, object] = field(default_factory=lambda: OPEN)


@dataclass(frozen=True, slots=True)
class Overrides:
    """Tables merged into every sidecar's settings, and into the control plane's."""

    sidecars: Tables = field(default_factory=dict)
    control_plane: Tables = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Layout:
    """The namespaces, the parts with the namespace of each, and the files that they read.

    `mesh` is the plan of the local mesh that it is made of, for its folders and links; `front` is
    where clients at the edge connect.
    """

    members: tuple[Namespace, ...]
    parts: tuple[tuple[str, Part], ...]
    files: Mapping[Path, str]
    mesh: Plan
    front: str = f"127.0.0.1:{PORTS.envoy}"

    def address(self, name: str) -> str:
        """The address of a namespace on the data network."""
        return self.member(name).address("data")

    def member(self, name: str) -> Namespace:
        """The namespace of this name."""
        [found] = [member for member in self.members if member.name == name]
        return found


def named(kind: str, count: int) -> tuple[str, ...]:
    """The names of all of a kind, as `host-0`, `host-1`."""
    return tuple(f"{kind}-{number}" for number in range(count))


def same_host(name: str, kind: str) -> str:
    """The name of a host, or of a part on it, from that of an instance or another part on it.

    `same_host("triton-1", "agent")` is `agent-1`. Kinds: `host`, `agent`, `sidecar`, `triton`.
    """
    return f"{kind}-{name.rpartition('-')[2]}"


def build(
    mesh_id: str,
    options: MeshOptions,
    programs: Programs,
    sources: Sources,
    consul: Consul,
    environ: Mapping[str, str],
    settings: Overrides,
) -> Layout:
    """The layout of a cluster with a host for each of `options.instances`.

    Args:
        mesh_id: distinguishes its processes from all others of the machine.
        options: those of the mesh.
        programs: the programs of the parts.
        sources: contents of the assets.
        consul: how many servers, and the settings of all agents.
        environ: the environment from which those of the parts are derived.
        settings: what is merged over the settings of a local mesh.
    """
    ports = dataclasses.replace(PORTS, instances=PORTS.instances * options.instances)
    # All traffic stays inside the namespaces.
    direct = {name: text for name, text in environ.items() if not name.lower().endswith("_proxy")}
    mesh = layout.build(mesh_id, options, ports, programs, sources, direct, {})
    members = _members(consul.servers, options.instances)
    draft = _Draft(mesh, members, settings, programs.consul_version)
    return Layout(
        members=members,
        parts=tuple(draft.parts()),
        files={**mesh.files, **draft.consul_files(consul), **draft.mesh_files()},
        mesh=mesh,
    )


def _members(servers: int, hosts: int) -> tuple[Namespace, ...]:
    """Consul's servers, the hosts, and the edge."""
    return (
        *(Namespace(name, 11 + n, ("consul",)) for n, name in enumerate(named("server", servers))),
        *(Namespace(name, 21 + n, NETWORKS) for n, name in enumerate(named("host", hosts))),
        _EDGE,
    )


class _Draft:
    """Builds the parts and files of one layout from those of a local mesh."""

    def __init__(
        self, mesh: Plan, members: Sequence[Namespace], settings: Overrides, consul: Version
    ) -> None:
        self.mesh, self.members, self.settings, self.consul = mesh, members, settings, consul
        self.folder = mesh.options.folder

    def parts(self) -> Iterator[tuple[str, Part]]:
        """Servers first, then agents, then the rest."""
        local = {part.name: part for part in self.mesh.parts}
        for member in self.members:
            yield member.name, self.agent(local["consul"], member.name)
        for number, host in enumerate(named("host", self.mesh.options.instances)):
            yield host, _open(local[instance_id(number)])
            yield host, local[f"sidecar-{number}"]
        yield EDGE, local["xds"]
        yield EDGE, local["envoy"]

    def agent(self, consul: Part, member: str) -> Part:
        """The Consul agent of a namespace."""
        name = agent_of(member)
        files = (f"-config-file={path}" for path in self.agent_files(name))
        argv = (consul.argv[0], "agent", *files)
        return dataclasses.replace(
            consul, name=name, argv=argv, log=consul.log.with_name(f"{name}.log")
        )

    def agent_files(self, name: str) -> tuple[Path, Path]:
        """The files of this project's settings, and of those that override them."""
        return self.folder / name / "consul.hcl", self.folder / name / "here.json"

    def consul_files(self, consul: Consul) -> dict[Path, str]:
        servers = [member for member in self.members if member.name.startswith("server")]
        files = {}
        for member in self.members:
            name = agent_of(member.name)
            own, here = self.agent_files(name)
            text = consul.server if member in servers else consul.client
            for number, server in enumerate(servers, 1):
                text = text.replace(f"consul-{number}.internal", server.address("consul"))
            files[own] = text
            files[here] = json.dumps(
                {
                    **agent_settings(
                        self.consul,
                        http=PORTS.consul_http,
                        serf_lan=PORTS.consul_serf,
                        server=PORTS.consul_server,
                    ),
                    "node_name": member.name,
                    "data_dir": str(self.folder / name / "data"),
                    "bind_addr": member.address("consul"),
                    "connect": {"enabled": False},
                    "log_level": "warn",
                    **consul.acl,
                }
                # For observers, which connect from the edge.
                | ({"client_addr": "0.0.0.0"} if member in servers else {})
            )
        return files

    def mesh_files(self) -> dict[Path, str]:
        """The settings of the sidecars and the control plane, with reachable addresses."""
        files, edge, disk = {}, self.member(EDGE).address("data"), self.folder / DISK
        for number, host in enumerate(named("host", self.mesh.options.instances)):
            path, address = self.folder / instance_id(number) / "sidecar.toml", self.member(host)
            state = str(disk / f"{instance_id(number)}.json")
            files[path] = self.sidecar(self.mesh.files[path], address.address("data"), state)
        path = self.folder / "xds.toml"
        document = tomllib.loads(self.mesh.files[path])
        listen, state = f"0.0.0.0:{PORTS.xds}", str(disk / "xds.json")
        document["xds"] |= {"listen": listen, "advertise": edge, "state": state}
        return {**files, path: toml.dumps(merged(document, self.settings.control_plane))}

    def sidecar(self, text: str, address: str, state: str) -> str:
        document: dict[str, Any] = tomllib.loads(text)
        changes: dict[str, Mapping[str, object]] = {
            "service": {"address": address},
            "triton": {"state": state},
            "listen": {"grpc": f"{address}:{_INSTANCE.sidecar_grpc}"},
            "election": {"session_ttl": f"{SESSION_TTL}s"},
            "consul": {"timeout": "3s"},  # at most a third of it
        }
        return toml.dumps(merged(document, changes, self.settings.sidecars))

    def member(self, name: str) -> Namespace:
        [found] = [member for member in self.members if member.name == name]
        return found


def agent_of(member: str) -> str:
    """The part that is the Consul agent of a namespace; a server has the namespace's name."""
    if member.startswith("server"):
        return member
    return EDGE_AGENT if member == EDGE else same_host(member, "agent")


def merged(document: Mapping[str, Any], *changes: Tables) -> Mapping[str, Any]:
    """A document of tables, with the keys of changed tables over its own."""
    made = dict(document)
    for changed in changes:
        for table, values in changed.items():
            made[table] = {**made.get(table, {}), **values}
    return made


def _open(triton: Part) -> Part:
    """A Triton that listens on all of its namespace's addresses."""
    argv = (argument.replace("-address=127.0.0.1", "-address=0.0.0.0") for argument in triton.argv)
    return dataclasses.replace(triton, argv=tuple(argv))
