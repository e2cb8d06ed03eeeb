"""What a local mesh consists of: every program with its arguments, files, ports and order.

Pure: takes the ports, programs and texts that somebody found, and returns values. `launch.py` makes
them real.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sidecar.local import configs
from sidecar.local.identity import MARK
from sidecar.local.meshfile import (
    ConsulAddresses,
    EnvoyAddresses,
    InstanceAddresses,
    Mesh,
    SidecarAddresses,
    TritonAddresses,
    XdsAddresses,
)
from sidecar.local.parts import TritonParts

SERVICE = "triton"
MODELS = ("tinychat", "tinychat_unary", "embedder")
# In the folder of an instance.
_MODELS, _BACKENDS = "models", "backends"

Kind = Literal["consul", "triton", "sidecar", "xds", "envoy"]
ProbeKind = Literal["consul", "http", "health", "tcp"]

# Settings that say which part of which mesh one is: those of the person's own shell must not reach
# a part. What all parts share (TRITON_SIDECAR_LOG__LEVEL, TRITON_SIDECAR_HEALTH__…) may.
_FOREIGN = re.compile(
    r"CONSUL_.*|TRITON_SIDECAR_(CONSUL|SERVICE|TRITON|LISTEN|XDS|ENVOY|CANARY)__.*|PYTHONPATH"
)


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
        """All of them, in the order in which they were dealt."""
        own = [port for instance in self.instances for port in dataclasses.astuple(instance)]
        consul = (self.consul_http, self.consul_serf, self.consul_server)
        return (*consul, self.xds, self.xds_metrics, self.envoy, self.envoy_admin, *own)

    @staticmethod
    def needed(instances: int) -> int:
        """How many ports a mesh of that many instances takes."""
        return 7 + 5 * instances

    @classmethod
    def deal(cls, ports: Sequence[int]) -> "Ports":
        """Give each purpose its port; `ports` are `needed(n)` different ones."""
        http, serf, server, xds, xds_metrics, envoy, admin, *rest = ports
        groups = [rest[i : i + 5] for i in range(0, len(rest), 5)]
        instances = tuple(InstancePorts(*group) for group in groups)
        return cls(http, serf, server, xds, xds_metrics, envoy, admin, instances)


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs to start. `consul_version` is (major, minor).

    `checkout` is where Python finds the package `sidecar` if that is not installed.
    """

    consul: Path
    consul_version: tuple[int, int]
    envoy: Path
    triton: TritonParts
    python: Path
    checkout: Path | None


@dataclass(frozen=True, slots=True)
class Sources:
    """What is read from the assets: parsed files, and each model's canary table."""

    envoy_bootstrap: Mapping[str, object]
    canaries: Mapping[str, Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the person asked for. `folder` is absolute."""

    folder: Path
    instances: int = 2
    restart: bool = True
    acl: bool = False
    envoy_concurrency: int = 2


@dataclass(frozen=True, slots=True)
class Probe:
    """How to ask a part whether it works: `consul` and `http` are URLs, the others `host:port`."""

    kind: ProbeKind
    target: str


@dataclass(frozen=True, slots=True)
class Part:
    """One program of the mesh.

    `after` names the parts that must work before this one starts. Timeouts are seconds.
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
    """A mesh: its parts, and what has to be there before they start.

    `files` are texts to write, `links` symbolic links to make, `model_views` folders to copy the
    demo models into.
    """

    id: str
    wishes: Wishes
    ports: Ports
    parts: tuple[Part, ...]
    files: Mapping[Path, str]
    model_views: tuple[Path, ...]
    links: Mapping[Path, Path]

    @property
    def mesh(self) -> Mesh:
        """The mesh as programs and people find it in mesh.json, nothing started yet."""
        ports, token = self.ports, token_file(self.wishes, "operator")
        return Mesh(
            dir=self.wishes.folder,
            supervisor=None,
            consul=ConsulAddresses(
                http=_loopback(ports.consul_http),
                ui=f"http://{_loopback(ports.consul_http)}/ui/",
                token_file=token,
            ),
            envoy=EnvoyAddresses(_loopback(ports.envoy), _loopback(ports.envoy_admin)),
            xds=XdsAddresses(_loopback(ports.xds), _loopback(ports.xds_metrics)),
            instances=tuple(
                InstanceAddresses(
                    id=instance_id(number),
                    triton=TritonAddresses(
                        _loopback(own.triton_grpc),
                        _loopback(own.triton_http),
                        _loopback(own.triton_metrics),
                    ),
                    sidecar=SidecarAddresses(
                        _loopback(own.sidecar_grpc), _loopback(own.sidecar_metrics)
                    ),
                )
                for number, own in enumerate(ports.instances)
            ),
        )


def instance_id(number: int) -> str:
    """The instance's id in Consul; its Triton's part bears the same name."""
    return f"{SERVICE}-{number}"


def token_file(wishes: Wishes, role: str) -> Path | None:
    """Where the ACL token of `management`, `sidecar`, `control_plane` or `operator` lies."""
    return wishes.folder / "tokens" / role if wishes.acl else None


def build(
    mesh_id: str,
    wishes: Wishes,
    ports: Ports,
    programs: Programs,
    sources: Sources,
    environ: Mapping[str, str],
    acl: Mapping[str, object],
) -> Plan:
    """The plan of a mesh.

    Args:
        mesh_id: distinguishes this mesh from every other one on the machine.
        wishes: what was asked for.
        ports: one for each purpose, for `wishes.instances` instances.
        programs: what to start.
        sources: contents of the assets.
        environ: the environment to derive the parts' own from.
        acl: what to merge into Consul's configuration; empty without ACLs.
    """
    draft = _Draft(mesh_id, wishes, ports, programs, _environment(environ, mesh_id))
    numbers = range(wishes.instances)
    parts = [draft.consul(), *map(draft.triton, numbers), *map(draft.sidecar, numbers)]
    files = {
        draft.folder / "consul.json": configs.consul(
            mesh_id, draft.folder / "consul", ports, programs.consul_version, acl
        ),
        draft.folder / "xds.toml": configs.xds(
            SERVICE, mesh_id, ports, token_file(wishes, "control_plane")
        ),
        draft.folder / "envoy.yaml": configs.envoy(sources.envoy_bootstrap, mesh_id, ports),
    }
    for number in numbers:
        files[draft.home(number) / "sidecar.toml"] = configs.sidecar(
            (SERVICE, instance_id(number)),
            ports,
            number,
            {model: sources.canaries[model] for model in MODELS},
            token_file(wishes, "sidecar"),
        )
    homes = tuple(map(draft.home, numbers))
    return Plan(
        id=mesh_id,
        wishes=wishes,
        ports=ports,
        parts=(*parts, draft.xds(), draft.envoy()),
        files=files,
        model_views=tuple(home / _MODELS for home in homes),
        links={home / _BACKENDS: programs.triton.backends for home in homes},
    )


class _Draft:
    """Builds the parts of one plan."""

    def __init__(
        self,
        mesh_id: str,
        wishes: Wishes,
        ports: Ports,
        programs: Programs,
        env: Mapping[str, str],
    ) -> None:
        self.mesh_id, self.wishes, self.ports = mesh_id, wishes, ports
        self.programs, self.env, self.folder = programs, env, wishes.folder

    def python_env(self) -> dict[str, str]:
        own = {"PYTHONPATH": str(self.programs.checkout)} if self.programs.checkout else {}
        return {**self.env, **own, "PYTHONUNBUFFERED": "1"}

    def home(self, number: int) -> Path:
        return self.folder / instance_id(number)

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def consul(self) -> Part:
        address = _loopback(self.ports.consul_http)
        config = self.folder / "consul.json"
        return Part(
            name="consul",
            kind="consul",
            argv=(str(self.programs.consul), "agent", "-ui", f"-config-file={config}"),
            env=self.env,
            cwd=self.folder,
            log=self.log("consul"),
            address=address,
            probe=Probe("consul", f"http://{address}"),
        )

    def triton(self, number: int) -> Part:
        own, triton = self.ports.instances[number], self.programs.triton
        prefix = shm_prefix(self.mesh_id, number)
        name = instance_id(number)
        return Part(
            name=name,
            kind="triton",
            argv=(str(triton.binary), *_triton_flags(name, own, prefix)),
            env=triton.environment(self.env),
            cwd=self.home(number),
            log=self.log(name),
            address=_loopback(own.triton_grpc),
            probe=Probe("http", f"http://{_loopback(own.triton_http)}/v2/health/ready"),
            start_timeout=180.0,
            stop_timeout=15.0,  # more than --exit-timeout-secs
            shm_prefix=prefix,
        )

    def sidecar(self, number: int) -> Part:
        own, name = self.ports.instances[number], f"sidecar-{number}"
        config = self.home(number) / "sidecar.toml"
        return Part(
            name=name,
            kind="sidecar",
            argv=(str(self.programs.python), "-m", "sidecar", "run", "--config", str(config)),
            env=self.python_env(),
            cwd=self.home(number),
            log=self.log(name),
            address=_loopback(own.sidecar_grpc),
            probe=Probe("health", _loopback(own.sidecar_grpc)),
            after=("consul",),
            stop_timeout=40.0,  # more than its drain.timeout
        )

    def xds(self) -> Part:
        address, config = _loopback(self.ports.xds), self.folder / "xds.toml"
        return Part(
            name="xds",
            kind="xds",
            argv=(str(self.programs.python), "-m", "sidecar", "xds", "--config", str(config)),
            env=self.python_env(),
            cwd=self.folder,
            log=self.log("xds"),
            address=address,
            probe=Probe("tcp", address),
            after=("consul",),
        )

    def envoy(self) -> Part:
        flags = ("--disable-hot-restart", "--concurrency", str(self.wishes.envoy_concurrency))
        config = self.folder / "envoy.yaml"
        return Part(
            name="envoy",
            kind="envoy",
            argv=(str(self.programs.envoy), "-c", str(config), *flags),
            env=self.env,
            cwd=self.folder,
            log=self.log("envoy"),
            address=_loopback(self.ports.envoy),
            probe=Probe("http", f"http://{_loopback(self.ports.envoy_admin)}/ready"),
            after=("xds",),
        )


def shm_prefix(mesh_id: str, number: int) -> str:
    """What the names of a Triton's shared memory regions begin with.

    The backend appends a UUID to it, so the separator keeps instance 1 apart from instance 10.
    """
    return f"triton-sidecar-{mesh_id}-{number}-"


def _triton_flags(name: str, own: InstancePorts, prefix: str) -> tuple[str, ...]:
    return (
        f"--id={name}",
        # Relative to its folder, both of them: the Python backend hands them to its stubs in one
        # line that is split at spaces.
        f"--model-repository={_MODELS}",
        f"--backend-directory={_BACKENDS}",
        # So that models can be loaded and unloaded while it runs.
        "--model-control-mode=explicit",
        *(f"--load-model={model}" for model in MODELS),
        "--grpc-address=127.0.0.1",
        f"--grpc-port={own.triton_grpc}",
        "--http-address=127.0.0.1",
        f"--http-port={own.triton_http}",
        "--allow-metrics=true",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={own.triton_metrics}",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
        # Envoy pings each connection twice a second to notice a frozen Triton; by default more
        # than one ping in five minutes counts as an attack and ends the connection.
        "--grpc-http2-min-recv-ping-interval-without-data=100",
        "--grpc-http2-max-ping-strikes=0",
        "--exit-timeout-secs=5",
        "--log-info=false",
        "--log-verbose=0",
    )


def _environment(environ: Mapping[str, str], mesh_id: str) -> dict[str, str]:
    kept = {key: value for key, value in environ.items() if not _FOREIGN.fullmatch(key)}
    # gRPC would send even loopback traffic to a proxy.
    for key in ("no_proxy", "NO_PROXY"):
        kept[key] = ",".join(filter(None, (kept.get(key), "127.0.0.1,localhost")))
    return {**kept, MARK: mesh_id}


def _loopback(port: int) -> str:
    return f"127.0.0.1:{port}"
