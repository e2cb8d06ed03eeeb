"""The plan of a local mesh: all programs with their arguments, files, ports and order.

Pure values. `layout.py` builds them, `local/launch.py` carries them out.

Acts: through what it imports or is given.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sidecar.local.meshfile import (
    ConsulAddresses,
    EnvoyAddresses,
    InstanceAddresses,
    Mesh,
    SidecarAddresses,
    TritonAddresses,
    XdsAddresses,
)
from sidecar.local.programs.parts import TritonParts

SERVICE = "triton"
MODELS = ("tinychat", "tinychat_unary", "embedder")

Kind = Literal["consul", "triton", "sidecar", "xds", "envoy"]
ProbeKind = Literal["consul", "http", "health", "tcp"]


@dataclass(frozen=True, slots=True)
class InstancePorts:
    """The ports of one Triton and its sidecar."""

    triton_grpc: int
    triton_http: int
    triton_metrics: int
    sidecar_grpc: int
    sidecar_metrics: int


@dataclass(frozen=True, slots=True)
class Ports:
    """Every port of a mesh, all on 127.0.0.1."""

    consul_http: int
    consul_serf: int
    consul_server: int
    xds: int
    xds_metrics: int
    envoy: int
    envoy_admin: int
    instances: tuple[InstancePorts, ...]

    @property
    def all(self) -> tuple[int, ...]:
        """All ports, in the order in which they were assigned."""
        own = [port for instance in self.instances for port in dataclasses.astuple(instance)]
        consul = (self.consul_http, self.consul_serf, self.consul_server)
        return (*consul, self.xds, self.xds_metrics, self.envoy, self.envoy_admin, *own)

    @staticmethod
    def needed(instances: int) -> int:
        """The number of ports of a mesh with that many instances."""
        return 7 + 5 * instances

    @classmethod
    def assign(cls, ports: Sequence[int]) -> "Ports":
        """Assign a port to each purpose; `ports` are `needed(n)` distinct ones."""
        http, serf, server, xds, xds_metrics, envoy, admin, *rest = ports
        groups = [rest[i : i + 5] for i in range(0, len(rest), 5)]
        instances = tuple(InstancePorts(*group) for group in groups)
        return cls(http, serf, server, xds, xds_metrics, envoy, admin, instances)


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs to start. `consul_version` is (major, minor).

    `checkout` is where Python finds the package `sidecar` if it is not installed.
    """

    consul: Path
    consul_version: tuple[int, int]
    envoy: Path
    triton: TritonParts
    python: Path
    checkout: Path | None


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model, of which every instance gets a copy, and its table `[canary.NAME]`."""

    folder: Path
    canary: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Sources:
    """The sources of a plan: Envoy's bootstrap, parsed, and the models by name."""

    envoy_bootstrap: Mapping[str, object]
    models: Mapping[str, ModelSource]


@dataclass(frozen=True, slots=True)
class MeshOptions:
    """The options of `local up`. Folders are absolute.

    `models` are folders of models to serve, besides the demo models or instead of them. The last
    `cold` instances are cold standbys.
    """

    folder: Path
    instances: int = 2
    restart: bool = True
    acl: bool = False
    envoy_concurrency: int = 2
    models: tuple[Path, ...] = ()
    demo_models: bool = True
    cold: int = 0

    def is_cold(self, number: int) -> bool:
        """Whether an instance loads no models until it is promoted."""
        return number >= self.instances - self.cold


@dataclass(frozen=True, slots=True)
class Probe:
    """How to probe a part: targets of `consul` and `http` are URLs, the others `host:port`."""

    kind: ProbeKind
    target: str


@dataclass(frozen=True, slots=True)
class Part:
    """One program of the mesh.

    `after` names the parts that must be up before this one starts. Timeouts are seconds.
    """

    name: str
    kind: Kind
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    log: Path
    address: str
    probe: Probe
    after: tuple[str, ...] = ()
    start_timeout: float = 60.0
    stop_timeout: float = 10.0
    shm_prefix: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A mesh: its parts, and what must exist before they start.

    `files` are texts to write, `links` symbolic links to create, `copies` folders to copy, each by
    its destination.
    """

    id: str
    options: MeshOptions
    ports: Ports
    parts: tuple[Part, ...]
    files: Mapping[Path, str]
    copies: Mapping[Path, Path]
    links: Mapping[Path, Path]

    @property
    def mesh(self) -> Mesh:
        """The mesh as in mesh.json, before anything is started."""
        ports, token = self.ports, token_file(self.options, "operator")
        return Mesh(
            dir=self.options.folder,
            supervisor=None,
            consul=ConsulAddresses(
                http=loopback(ports.consul_http),
                ui=f"http://{loopback(ports.consul_http)}/ui/",
                token_file=token,
            ),
            envoy=EnvoyAddresses(loopback(ports.envoy), loopback(ports.envoy_admin)),
            xds=XdsAddresses(loopback(ports.xds), loopback(ports.xds_metrics)),
            instances=tuple(
                InstanceAddresses(
                    id=instance_id(number),
                    triton=TritonAddresses(
                        loopback(own.triton_grpc),
                        loopback(own.triton_http),
                        loopback(own.triton_metrics),
                    ),
                    sidecar=SidecarAddresses(
                        loopback(own.sidecar_grpc), loopback(own.sidecar_metrics)
                    ),
                )
                for number, own in enumerate(ports.instances)
            ),
        )


def instance_id(number: int) -> str:
    """The instance's id in Consul; the part of its Triton has the same name."""
    return f"{SERVICE}-{number}"


def token_file(options: MeshOptions, role: str) -> Path | None:
    """The file of the ACL token of `management`, `sidecar`, `control_plane` or `operator`."""
    return options.folder / "tokens" / role if options.acl else None


def loopback(port: int) -> str:
    """The loopback address of a port."""
    return f"127.0.0.1:{port}"
