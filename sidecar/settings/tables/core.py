"""The tables that are one screen or less; the larger ones have files of their own."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from sidecar.consul.access import ConsulAccess
from sidecar.models.rules import ModelSetRules
from sidecar.registry.registration import MAX_CAPACITY, MAX_META
from sidecar.registry.rules import DrainRules
from sidecar.runtime.addresses import is_host, join_address, split_address, split_advertised
from sidecar.settings import headers
from sidecar.settings.headers import HeaderFiles, Headers
from sidecar.settings.values import (
    Address,
    Advertised,
    Duration,
    ListenedByEnvoy,
    MetaKey,
    MetaValue,
    Name,
    Table,
    Tag,
    Whole,
    default_id,
    endpoint_address,
    parse_duration,
)
from sidecar.xds.config.edge import Edge
from sidecar.xds.rules import ControlPlaneRules


def _model(name: str) -> str:
    if not name or not name.isprintable():
        raise ValueError("expected the name of a model")
    return name


ModelName = Annotated[str, AfterValidator(_model)]
Needed = Annotated[tuple[ModelName, ...], Field(min_length=1)]


def _folder(path: Path) -> Path:
    if str(path) in ("", "."):
        raise ValueError("expected a folder")
    return path


def _file(path: Path) -> Path:
    if not path.name:
        raise ValueError("expected a file")
    return path


class ServiceSettings(Table):
    """The instance as Consul and Envoy see it."""

    name: Name = "triton"
    id: Name | None = None
    address: Annotated[str, AfterValidator(endpoint_address)] = "127.0.0.1"
    # Where Envoys reach Triton, if that is not the port of triton.grpc: one that is mapped, to a
    # container for instance.
    port: Whole | None = Field(default=None, ge=1, le=65535)
    tags: tuple[Tag, ...] = ()
    # Relative to the other instances; Consul and Envoy get a hundred times as much.
    weight: Whole = Field(default=1, ge=1, le=655)
    # Requests that it can have in flight at once: what Envoys then let through to the service is
    # the sum over its instances, where its policy sets no limit.
    capacity: Whole | None = Field(default=None, ge=1, le=MAX_CAPACITY)
    # Where it is. A policy may prefer instances in the zone of the control plane.
    zone: Name | None = None
    # An entry whose sidecar has been gone for so long is removed. Consul takes a minute or more.
    forget_after: Annotated[Duration, Field(ge=60)] = 3600.0
    # Consul allows 64 pairs; the rest is the sidecar's own.
    meta: dict[MetaKey, MetaValue] = Field(default={}, max_length=MAX_META)


class TritonSettings(Table):
    """The Triton that this sidecar stands beside."""

    grpc: Address = "127.0.0.1:8001"
    metrics: Address | None = None
    models: tuple[ModelName, ...] = Field(min_length=1)
    # The models that a model calls by itself, as Python models may (BLS): they belong to what it
    # answers, and no file tells. Steps of ensembles are known.
    depends_on: Annotated[dict[ModelName, Needed], Field(default={})]
    # What goes with every call to Triton, such as triton-grpc-protocol-KEY, for which a Triton asks
    # that was started with --grpc-restricted-protocol=…:KEY=VALUE; values, or files that hold them.
    headers: Headers
    header_files: HeaderFiles
    # Further files of `[canary.MODEL]` tables; paths and globs, relative to the settings file.
    canaries: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    # Triton's model repository, where this machine sees it: the model set is then told by its
    # files. A path relative to the settings file.
    repository: Annotated[Path, AfterValidator(_folder)] | None = None
    # Between two looks at these files; they are looked at as well when Triton has loaded a model.
    repository_interval: Duration = 30.0
    # A file in which it is remembered what of the repository is loaded, and which models have
    # passed a canary that was derived, for a sidecar that is started anew beside a running Triton.
    # A path relative to the settings file.
    state: Annotated[Path, AfterValidator(_file)] | None = None

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.models)) < len(self.models):
            twice = next(model for model in self.models if self.models.count(model) > 1)
            raise ValueError(f"models: expected each model once, found {twice!r:.80} twice")
        return self

    @model_validator(mode="after")
    def _one_value(self) -> Self:
        if twice := sorted(self.headers.keys() & self.header_files.keys()):
            raise ValueError(f"header_files: expected no {twice[0]}, which headers has as well")
        return self

    def read_headers(self) -> dict[str, str]:
        """What goes with every call to Triton, read from the files anew at each call.

        Raises:
            ConfigError: a file cannot be read, or does not hold the value of a header.
        """
        return headers.read(self.headers, self.header_files, "triton.header_files")

    @property
    def model_set(self) -> ModelSetRules:
        """The same, for `ModelSetWatch`."""
        return ModelSetRules(
            self.models, self.repository, self.repository_interval, self.depends_on
        )

    @property
    def port(self) -> int:
        """The port of Triton's gRPC service."""
        return split_address(self.grpc)[1]


class ConsulSettings(Table):
    """How to reach the Consul agent of this machine."""

    address: str = "http://127.0.0.1:8500"
    token: SecretStr | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    verify: bool = True
    timeout: Duration = 5.0

    @model_validator(mode="after")
    def _complete(self) -> Self:
        of = re.fullmatch(
            r"(?:https?://)?(\[[0-9A-Fa-f:.]+\]|[^:/\s]+)(:[0-9]{1,5})?/?", self.address
        )
        if not of or not is_host(of[1].strip("[]")) or not 0 < int((of[2] or ":1")[1:]) < 65536:
            wanted = "expected host:port or http(s)://host:port"
            raise ValueError(f"address: {wanted}, found {self.address!r:.80}")
        if self.token and self.token_file:
            raise ValueError("token and token_file: expected one of them, not both")
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("cert_file and key_file: expected both or none")
        return self

    @property
    def access(self) -> ConsulAccess:
        """The same, for `Consul`."""
        return ConsulAccess(
            address=self.address,
            token=self.token.get_secret_value() if self.token else None,
            token_file=self.token_file,
            ca_file=self.ca_file,
            cert_file=self.cert_file,
            key_file=self.key_file,
            verify=self.verify,
            timeout=self.timeout,
        )


class ListenSettings(Table):
    """Where the sidecar answers."""

    grpc: Address = "127.0.0.1:9001"
    metrics: Address | None = "127.0.0.1:9002"
    # What Consul dials, a host or host:port, where it is not `grpc`; Envoys dial the same port of
    # service.address.
    advertise: Advertised | None = None

    @property
    def port(self) -> int:
        """The port of grpc.health.v1."""
        return split_address(self.grpc)[1]

    @property
    def dialled(self) -> str:
        """The `host:port` that others dial for grpc.health.v1."""
        if self.advertise is None:
            return self.grpc
        return join_address(*split_advertised(self.advertise, self.port))


class DrainSettings(Table):
    """How a withdrawal finds out when nothing is in flight any more, and how long that may take."""

    timeout: Duration = 30.0
    # Whether what is left so long after a stop, maintenance or CRITICAL is cut: unary requests
    # without an answer are sent again elsewhere, streams fail. Needs CAP_NET_ADMIN. Off: they go on
    # as long as Triton does.
    cut: bool = False
    # How long after a verdict of hung all of it is cut, whatever `cut` says: what is stuck there
    # has no end. Long enough for Envoy to know, or more comes after the cut.
    cut_hung_after: Duration | None = None
    # The Consul service under which the control planes register; they know what is in flight.
    control_plane: Name = "triton-sidecar-xds"

    @property
    def rules(self) -> DrainRules:
        """The same, for `Withdrawal`."""
        return DrainRules(self.timeout, self.cut, self.cut_hung_after)


class LogSettings(Table):
    """What is logged and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class ControlPlaneSettings(Table):
    """The control plane's own service."""

    listen: Address = "127.0.0.1:18000"
    services: tuple[Name, ...] = Field(default=("triton",), min_length=1)
    name: Name = "triton-sidecar-xds"
    id: Name | None = None
    # What sidecars and Consul dial, a host or host:port, where it is not `listen`.
    advertise: Advertised | None = None
    metrics: Address | None = "127.0.0.1:18001"
    # A file in which the last good catalog is kept, for a start while Consul is down, and what
    # guards have rolled back. A path relative to the settings file.
    state: Annotated[Path, AfterValidator(_file)] | None = None
    # Where its Envoys are, by default what the meta of this Consul node says. A policy may prefer
    # instances in the same zone.
    zone: Name | None = None

    @property
    def instance(self) -> str:
        """The control plane's id in Consul."""
        return self.id or default_id(self.name)

    @property
    def plane(self) -> ControlPlaneRules:
        """The same as it is registered."""
        return ControlPlaneRules(self.instance, self.name, self.listen, self.advertise)


_EDGE = Edge()
# Envoy's timers count milliseconds; less would be none.
_Timer = Annotated[Duration, Field(ge=0.001)]


class EnvoySettings(Table):
    """What the control plane tells Envoy about itself; the reasons for its numbers: xds/edge.py."""

    listen: ListenedByEnvoy = join_address(_EDGE.listen_host, _EDGE.listen_port)
    max_concurrent_streams: Whole = Field(default=_EDGE.max_concurrent_streams, ge=1, lt=2**31)
    stream_idle_timeout: _Timer = _EDGE.stream_idle_timeout
    keepalive_interval: _Timer = _EDGE.keepalive_interval
    keepalive_timeout: _Timer = _EDGE.keepalive_timeout
    per_connection_buffer_limit_bytes: Whole = Field(
        default=_EDGE.per_connection_buffer_limit_bytes, ge=16_384, lt=2**32
    )
    quarantine: Annotated[float, BeforeValidator(parse_duration), Field(ge=0)] = _EDGE.quarantine
    # The admin interfaces of the Envoys that follow this control plane, for the requests that they
    # have counted; all of them or none.
    admin: tuple[Address, ...] = ()

    @property
    def edge(self) -> Edge:
        """The same, for `snapshot.build`."""
        host, port = split_address(self.listen)
        return Edge(host, port, **self.model_dump(exclude={"listen", "admin"}))
