"""Settings: what can be set, what is valid, and what holds by default.

`sources` says where values come from. Durations are seconds once they are read.
"""

import ipaddress
import math
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from sidecar import sources
from sidecar.errors import ConfigError

_URL = r"(https?://)?(\[[0-9A-Fa-f:.]+\]|[^:/\s]+)(:\d{1,5})?/?"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}


def parse_duration(value: object) -> float:
    """Seconds from a number, or from text such as `500ms`, `1.5s`, `2m`, `1h`.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|)\s*", value)
        if match:
            return float(match[1]) * _UNITS[match[2]]
    raise ValueError('expected a duration such as "500ms", "1s" or "2m"')


def _positive(seconds: float) -> float:
    if not 0 < seconds < math.inf:
        raise ValueError("expected a duration above zero")
    return seconds


def _ip(address: str) -> str:
    # Envoy takes endpoints by address; a name would be left out of its configuration.
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise ValueError("expected an IP address") from None
    return address


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port`; an IPv6 host stands in brackets.

    Raises:
        ValueError: it has another form.
    """
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\s/]+):(\d{1,5})", address)
    if not match or not 0 < int(match[2]) < 65536:
        raise ValueError("expected host:port")
    return match[1].strip("[]"), int(match[2])


def join_address(host: str, port: int) -> str:
    """`host:port`, with an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _address(address: str) -> str:
    split_address(address)
    return address


Duration = Annotated[float, BeforeValidator(parse_duration), AfterValidator(_positive)]
Address = Annotated[str, AfterValidator(_address)]
# What Consul accepts in service names and ids without making their DNS names unusable.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
MetaKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
MetaValue = Annotated[str, Field(max_length=512)]
Tag = Annotated[str, Field(min_length=1, max_length=128)]


def _default_id(service: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", f"{service}-{socket.gethostname()}")


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServiceSettings(_Table):
    """The instance as Consul and Envoy see it."""

    name: Name = "triton"
    id: Name | None = None
    address: Annotated[str, AfterValidator(_ip)] = "127.0.0.1"
    tags: tuple[Tag, ...] = ()
    weight: int = Field(default=1, ge=1, le=65535)
    # Consul allows 64 pairs; the rest is the sidecar's own.
    meta: dict[MetaKey, MetaValue] = Field(default={}, max_length=48)


class TritonSettings(_Table):
    """The Triton that this sidecar stands beside."""

    grpc: Address = "127.0.0.1:8001"
    metrics: Address | None = None
    models: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.models)) < len(self.models):
            raise ValueError("models: expected each model once")
        return self

    @property
    def port(self) -> int:
        """The port of Triton's gRPC service."""
        return split_address(self.grpc)[1]


class ConsulSettings(_Table):
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
        if not re.fullmatch(
            r"(https?://)?(\[[0-9A-Fa-f:.]+\]|[^:/\s]+)(:\d{1,5})?/?", self.address
        ):
            raise ValueError("address: expected host:port or http(s)://host:port")
        if self.token and self.token_file:
            raise ValueError("token and token_file: expected one of them, not both")
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("cert_file and key_file: expected both or none")
        return self

    @property
    def url(self) -> str:
        """Base URL of the HTTP API, without a slash at the end."""
        address = self.address.rstrip("/")
        return address if "://" in address else f"http://{address}"

    def read_token(self) -> str | None:
        """The ACL token, read from its file anew at each call.

        Raises:
            ConfigError: the file cannot be read, or is empty.
        """
        if self.token_file is None:
            return self.token.get_secret_value() if self.token else None
        try:
            token = self.token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"consul.token_file: {error}") from error
        if not token:
            raise ConfigError(f"consul.token_file: expected a token in {self.token_file}")
        return token


class ListenSettings(_Table):
    """Where the sidecar answers."""

    grpc: Address = "127.0.0.1:9001"
    metrics: Address | None = "127.0.0.1:9002"
    # What Consul and Envoy dial, where it is not the host of `grpc`.
    advertise: str | None = None

    @property
    def port(self) -> int:
        """The port of grpc.health.v1."""
        return split_address(self.grpc)[1]

    @property
    def dialled(self) -> str:
        """The `host:port` that others dial for grpc.health.v1."""
        host, port = split_address(self.grpc)
        return join_address(self.advertise or host, port)


class HealthSettings(_Table):
    """How often to probe, how long to wait, and how many rounds decide."""

    interval: Duration = 1.0
    # Between rounds while they disagree with the verdict: settles it soon, in either direction.
    fast_interval: Duration = 0.1
    rise: int = Field(default=2, ge=1)
    fall: int = Field(default=2, ge=1)
    grace: Duration = 60.0
    port_timeout: Duration = 0.5
    server_timeout: Duration = 1.0
    model_timeout: Duration = 1.0


Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BYTES",
]  # fmt: skip
Scalar = bool | int | float | str


def _is_of(datatype: str, element: Scalar) -> bool:
    """Whether an element can be sent as this datatype without loss of kind or range."""
    if datatype in ("BYTES", "BOOL"):
        return isinstance(element, str if datatype == "BYTES" else bool)
    if isinstance(element, str | bool):
        return False
    if datatype.startswith("FP"):
        return True
    bits = int(datatype.lstrip("UINT"))
    low, high = (0, 2**bits) if datatype.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    return isinstance(element, int) and low <= element < high


class CanaryInput(_Table):
    """One input tensor; `data` is flat, in row-major order."""

    name: str
    datatype: Datatype
    shape: tuple[Annotated[int, Field(ge=0)], ...]
    data: tuple[Scalar, ...]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        size = 1
        for extent in self.shape:
            size *= extent
        if size != len(self.data):
            raise ValueError(f"data: expected {size} elements for this shape, got {len(self.data)}")
        if not all(_is_of(self.datatype, element) for element in self.data):
            raise ValueError(f"data: expected elements of datatype {self.datatype}")
        return self


class CanaryExpectation(_Table):
    """What one output of the canary has to be; `equals` and `allclose` are flat."""

    output: str
    equals: tuple[Scalar, ...] | None = None
    allclose: tuple[float, ...] | None = None
    atol: float = Field(default=1e-5, ge=0)
    rtol: float = Field(default=1e-4, ge=0)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.equals is None) == (self.allclose is None):
            raise ValueError("expected exactly one of equals and allclose")
        return self


class CanarySettings(_Table):
    """One inference whose answer is known."""

    timeout: Duration = 2.0
    inputs: tuple[CanaryInput, ...] = Field(min_length=1)
    expect: tuple[CanaryExpectation, ...] = Field(min_length=1)


class ElectionSettings(_Table):
    """The lease on the role of primary."""

    session_ttl: Annotated[Duration, Field(ge=10, le=86400)] = 15.0
    # A delay protects stores that cannot tell an old holder from a new one; ours go by the epoch.
    lock_delay: Annotated[float, BeforeValidator(parse_duration), Field(ge=0, le=60)] = 0.0


class DrainSettings(_Table):
    """How an orderly stop finds out when it is done, and how long it may take."""

    timeout: Duration = 30.0
    # The Consul service under which the control planes register; they know what is in flight.
    control_plane: Name = "triton-sidecar-xds"


class LogSettings(_Table):
    """What is logged and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class ControlPlaneSettings(_Table):
    """The control plane's own service."""

    listen: Address = "127.0.0.1:18000"
    services: tuple[Name, ...] = Field(default=("triton",), min_length=1)
    name: Name = "triton-sidecar-xds"
    id: Name | None = None
    advertise: str | None = None
    metrics: Address | None = "127.0.0.1:18001"

    @property
    def instance(self) -> str:
        """The control plane's id in Consul."""
        return self.id or _default_id(self.name)


class EnvoySettings(_Table):
    """What the control plane tells Envoy about itself."""

    listen: Address = "0.0.0.0:8001"


class _Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=sources.ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
    )

    consul: ConsulSettings = ConsulSettings()
    log: LogSettings = LogSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """None but what is passed: `sources.load` reads the others, to name them in errors."""
        return (init_settings,)


class SidecarSettings(_Settings):
    """Settings of `triton-sidecar run`."""

    service: ServiceSettings = ServiceSettings()
    triton: TritonSettings
    listen: ListenSettings = ListenSettings()
    health: HealthSettings = HealthSettings()
    canary: dict[str, CanarySettings] = {}
    election: ElectionSettings = ElectionSettings()
    drain: DrainSettings = DrainSettings()

    @model_validator(mode="after")
    def _canaries(self) -> Self:
        served, probed = set(self.triton.models), set(self.canary)
        missing = sorted(served - probed)
        unknown = sorted(probed - served)
        if missing:
            raise ValueError(
                f"canary.{missing[0]}: expected a canary for every model of triton.models"
            )
        if unknown:
            raise ValueError(f"canary.{unknown[0]}: expected a model that triton.models names")
        return self

    @model_validator(mode="after")
    def _in_time(self) -> Self:
        # Two renewals, each at a third of the TTL, may fail before the claim ends.
        if self.consul.timeout > self.election.session_ttl / 3:
            raise ValueError("consul.timeout: expected at most a third of election.session_ttl")
        return self

    @property
    def instance(self) -> str:
        """The instance's id; by default the port tells several Tritons of a machine apart."""
        return self.service.id or f"{_default_id(self.service.name)}-{self.triton.port}"


class XdsSettings(_Settings):
    """Settings of `triton-sidecar xds`."""

    xds: ControlPlaneSettings = ControlPlaneSettings()
    envoy: EnvoySettings = EnvoySettings()


_TABLES = SidecarSettings.model_fields | XdsSettings.model_fields


def load_sidecar(path: Path | None, flags: Mapping[str, object] | None = None) -> SidecarSettings:
    """Settings of the sidecar from a TOML file, the environment and flags (`{"log.level": …}`).

    Raises:
        ConfigError: with every mistake at once.
    """
    return sources.load(SidecarSettings, path, flags or {}, _TABLES)


def load_xds(path: Path | None, flags: Mapping[str, object] | None = None) -> XdsSettings:
    """Settings of the control plane; arguments and errors as for `load_sidecar`."""
    return sources.load(XdsSettings, path, flags or {}, _TABLES)


def changes(before: _Settings, after: _Settings) -> set[str]:
    """The keys, as `table.key`, in which two settings differ."""
    return {
        f"{table}.{key}"
        for table in type(before).model_fields
        for key in _keys(getattr(before, table)) | _keys(getattr(after, table))
        if _value(getattr(before, table), key) != _value(getattr(after, table), key)
    }


def _keys(table: object) -> set[str]:
    return set(table) if isinstance(table, Mapping) else set(type(table).model_fields)  # type: ignore[attr-defined]


def _value(table: object, key: str) -> object:
    return table.get(key) if isinstance(table, Mapping) else getattr(table, key)
