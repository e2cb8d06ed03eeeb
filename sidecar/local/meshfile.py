"""DIR/mesh.json: the addresses and pids of a running mesh, for people and programs.

    mesh = load(Path("DIR"))
    mesh.envoy.grpc, mesh.instances[0].triton.pid

The supervisor rewrites it whenever a pid changes; a pid is None while its part is not running.

Acts: os, tempfile.
"""

import dataclasses
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidecar.runtime.errors import ConfigError

NAME = "mesh.json"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class ConsulAddresses:
    """`http` is `host:port`, `ui` a URL. With ACLs, `token_file` holds the operator's token."""

    http: str
    ui: str
    token_file: Path | None = None
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class EnvoyAddresses:
    """Where gRPC clients connect, and Envoy's admin interface; both `host:port`."""

    grpc: str
    admin: str
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class XdsAddresses:
    """The control plane: `address` serves ADS, `metrics` Prometheus; both `host:port`."""

    address: str
    metrics: str
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class TritonAddresses:
    """Triton's three listeners, each `host:port`."""

    grpc: str
    http: str
    metrics: str
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class SidecarAddresses:
    """The sidecar's two listeners, each `host:port`."""

    grpc: str
    metrics: str
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class InstanceAddresses:
    """One Triton with its sidecar; `id` is its id in Consul."""

    id: str
    triton: TritonAddresses
    sidecar: SidecarAddresses


@dataclass(frozen=True, slots=True)
class Mesh:
    """A whole mesh. `supervisor` is the pid of the process that keeps it running."""

    dir: Path
    supervisor: int | None
    consul: ConsulAddresses
    envoy: EnvoyAddresses
    xds: XdsAddresses
    instances: tuple[InstanceAddresses, ...]

    def instance(self, instance_id: str) -> InstanceAddresses:
        """The instance with this id.

        Raises:
            KeyError: there is none.
        """
        for found in self.instances:
            if found.id == instance_id:
                return found
        raise KeyError(instance_id)

    def with_pids(self, supervisor: int, pids: Mapping[str, int | None]) -> "Mesh":
        """The mesh with the pids of its parts: consul, xds, envoy, triton-N, sidecar-N."""
        replace = dataclasses.replace
        instances = tuple(
            replace(
                instance,
                triton=replace(instance.triton, pid=pids.get(f"triton-{number}")),
                sidecar=replace(instance.sidecar, pid=pids.get(f"sidecar-{number}")),
            )
            for number, instance in enumerate(self.instances)
        )
        return replace(
            self,
            supervisor=supervisor,
            consul=replace(self.consul, pid=pids.get("consul")),
            envoy=replace(self.envoy, pid=pids.get("envoy")),
            xds=replace(self.xds, pid=pids.get("xds")),
            instances=instances,
        )


def dumps(mesh: Mesh) -> str:
    """The text of mesh.json."""
    fields = dataclasses.asdict(mesh)
    document = {"version": _VERSION, **fields, "supervisor": {"pid": mesh.supervisor}}
    return json.dumps(document, indent=2, default=str) + "\n"


def loads(text: str, where: str = NAME) -> Mesh:
    """The mesh in the text of a mesh.json; `where` names it in errors.

    Raises:
        ConfigError: it is not the text of a mesh.json of this version.
    """
    try:
        document = json.loads(text)
        if document["version"] != _VERSION:
            raise ConfigError(f"{where}: expected version {_VERSION}, found {document['version']}")
        return _mesh(document)
    except (ValueError, KeyError, TypeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(f"{where}: expected what `local up` writes, found {what}") from error


def load(place: Path) -> Mesh:
    """The running mesh of a folder, or of the mesh.json in it.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    path = folder(place) / NAME
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path.parent}: no mesh is running there; start one with `triton-sidecar local up`"
        ) from error
    return loads(text, str(path))


def folder(place: Path) -> Path:
    """The absolute folder meant by `--mesh`: the folder itself, or the mesh.json in it."""
    found = place.expanduser().absolute()
    return found.parent if found.name == NAME else found


def write_whole(path: Path, text: str) -> None:
    """Replace a file atomically: a reader finds the old text or the new one.

    Only its owner may read it.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _mesh(document: Mapping[str, Any]) -> Mesh:
    token = document["consul"].get("token_file")
    consul = ConsulAddresses(**{**document["consul"], "token_file": Path(token) if token else None})
    return Mesh(
        dir=Path(document["dir"]),
        supervisor=document["supervisor"]["pid"],
        consul=consul,
        envoy=EnvoyAddresses(**document["envoy"]),
        xds=XdsAddresses(**document["xds"]),
        instances=tuple(
            InstanceAddresses(
                id=instance["id"],
                triton=TritonAddresses(**instance["triton"]),
                sidecar=SidecarAddresses(**instance["sidecar"]),
            )
            for instance in document["instances"]
        ),
    )
