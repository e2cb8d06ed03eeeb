"""The small tables: service, triton, consul, listen, drain, log, xds and envoy."""

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
    Id,
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
    id: Id | None = None
    address: Annotated[str, AfterValidator(endpoint_address)] = "127.0.0.1"
    # The port on which Envoys reach Triton, if it differs from that of triton.grpc: the published
    # port of a container, for example.
    port: Whole | None = Field(default=None, ge=1, le=65535)
    tags: tuple[Tag, ...] = ()
    # Relative to the other instances; Consul and Envoy get a hundred times as much.
    weight: Whole = Field(default=1, ge=1, le=655)
    # Requests that the instance can have in flight at once. Unless the service's policy sets a
    # limit, Envoys admit the sum over its instances.
    capacity: Whole | None = Field(default=None, ge=1, le=MAX_CAPACITY)
    # The instance's zone. A policy may prefer instances in the control plane's zone.
    zone: Name | None = None
    # Consul removes an entry whose sidecar has been gone for so long; at least a minute.
    forget_after: Annotated[Duration, Field(ge=60)] = 3600.0
    # Consul allows 64 pairs; the sidecar uses the rest.
    meta: dict[MetaKey, MetaValue] = Field(default={}, max_length=MAX_META)


class TritonSettings(Table):
    """The Triton next to this sidecar."""

    grpc: Address = "127.0.0.1:8001"
    metrics: Address | None = None
    models: tuple[ModelName, ...] = Field(min_length=1)
    # The models that a model calls itself, as Python models may (BLS). They are part of its model
    # set, but no file shows them. The steps of ensembles are known.
    depends_on: Annotated[dict[ModelName, Needed], Field(default={})]
    # Headers of every call to Triton, such as triton-grpc-protocol-KEY for a Triton started with
    # --grpc-restricted-protocol=…:KEY=VALUE; as values, or as files that hold them.
    headers: Headers
    header_files: HeaderFiles
    # Further files with `[canary.MODEL]` tables; paths and globs, relative to the settings file.
    canaries: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    # Triton's model repository, if this machine has access to it: then the model set is identified
    # by its files. A path relative to the settings file.
    repository: Annotated[Path, AfterValidator(_folder)] | None = None
    # Between two scans of the repository; it is also scanned after Triton has loaded a model.
    repository_interval: Duration = 30.0
    # A state file with the loaded files of the repository and the models that have passed a derived
    # canary, for a sidecar that restarts next to a running Triton. A path relative to the settings
    # file.
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
        """The headers of every call to Triton; reads the files again on each call.

        Raises:
            ConfigError: a file cannot be read, or does not hold a valid header value.
        """
        return headers.read(self.headers, self.header_files, "triton.header_files")

    @property
    def model_set(self) -> ModelSetRules:
        """The rules for `ModelSetWatch`."""
        return ModelSetRules(
            self.models, self.repository, self.repository_interval, self.depends_on
        )

    @property
    def port(self) -> int:
        """The port of Triton's gRPC service."""
        return split_address(self.grpc)[1]


class ConsulSettings(Table):
    """How to reach this machine's Consul agent."""

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
        """The access data for `Consul`."""
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
    """The addresses on which the sidecar listens."""

    # For grpc.health.v1.
    grpc: Address = "127.0.0.1:9001"
    metrics: Address | None = "127.0.0.1:9002"
    # The host or host:port that Consul dials, if it differs from `grpc`; Envoys dial the same port
    # on service.address.
    advertise: Advertised | None = None

    @property
    def port(self) -> int:
        """The port of grpc.health.v1."""
        return split_address(self.grpc)[1]

    @property
    def dialled(self) -> str:
        """The `host:port` that Consul dials for grpc.health.v1."""
        if self.advertise is None:
            return self.grpc
        return join_address(*split_advertised(self.advertise, self.port))


class DrainSettings(Table):
    """How a draining instance waits for its requests in flight, and what happens to the rest."""

    # How long to wait.
    timeout: Duration = 30.0
    # Whether to cut connections so long after a stop, maintenance or CRITICAL: unary requests
    # without an answer are retried elsewhere, streams fail. Needs CAP_NET_ADMIN. Off: requests
    # continue as long as Triton does.
    cut: bool = False
    # How long after a verdict of hung to cut all connections, whatever `cut` says, because stuck
    # requests never finish. Long enough for Envoy to learn the verdict, or it sends more.
    cut_hung_after: Duration | None = None
    # The Consul service of the control planes, which know the requests in flight.
    control_plane: Name = "triton-sidecar-xds"

    @property
    def rules(self) -> DrainRules:
        """The rules for `Withdrawal`."""
        return DrainRules(self.timeout, self.cut, self.cut_hung_after)


class LogSettings(Table):
    """What is logged, and in which format."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class ControlPlaneSettings(Table):
    """The control plane's own service."""

    listen: Address = "127.0.0.1:18000"
    services: tuple[Name, ...] = Field(default=("triton",), min_length=1)
    name: Name = "triton-sidecar-xds"
    id: Id | None = None
    # The host or host:port that sidecars and Consul dial, if it differs from `listen`.
    advertise: Advertised | None = None
    metrics: Address | None = "127.0.0.1:18001"
    # A state file with the last good catalog, for a start while Consul is down, and with the
    # releases that guards have rolled back. A path relative to the settings file.
    state: Annotated[Path, AfterValidator(_file)] | None = None
    # The zone of its Envoys; by default from the meta of this Consul node. A policy may prefer
    # instances in the same zone.
    zone: Name | None = None

    @property
    def instance(self) -> str:
        """The control plane's id in Consul."""
        return self.id or default_id(self.name)

    @property
    def plane(self) -> ControlPlaneRules:
        """The rules for its registration."""
        return ControlPlaneRules(self.instance, self.name, self.listen, self.advertise)


_EDGE = Edge()
# Envoy's timers have a resolution of a millisecond; less would disable them.
_Timer = Annotated[Duration, Field(ge=0.001)]


class EnvoySettings(Table):
    """Envoy's own configuration, as the control plane sends it; xds/config/edge.py explains it."""

    listen: ListenedByEnvoy = join_address(_EDGE.listen_host, _EDGE.listen_port)
    max_concurrent_streams: Whole = Field(default=_EDGE.max_concurrent_streams, ge=1, lt=2**31)
    stream_idle_timeout: _Timer = _EDGE.stream_idle_timeout
    keepalive_interval: _Timer = _EDGE.keepalive_interval
    keepalive_timeout: _Timer = _EDGE.keepalive_timeout
    per_connection_buffer_limit_bytes: Whole = Field(
        default=_EDGE.per_connection_buffer_limit_bytes, ge=16_384, lt=2**32
    )
    quarantine: Annotated[float, BeforeValidator(parse_duration), Field(ge=0)] = _EDGE.quarantine
    # The admin addresses of this control plane's Envoys, to read their request counters; name all
    # of them or none.
    admin: tuple[Address, ...] = ()

    @property
    def edge(self) -> Edge:
        """The values for `snapshot.build`."""
        host, port = split_address(self.listen)
        return Edge(host, port, **self.model_dump(exclude={"listen", "admin"}))
