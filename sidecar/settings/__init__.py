"""The settings of every program: keys, validation and defaults; each table makes a room's rules.

It may import the rooms whose rules it makes; only app, xds.app and cli import it.
Start reading here, then at `tables/core.py`; `sources.py` says where values come from.

Acts throughout.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from pydantic import model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from sidecar.notify.rules import Receiver
from sidecar.registry.registration import MAX_META
from sidecar.runtime.errors import ConfigError
from sidecar.settings import sources
from sidecar.settings.tables.canary import CanarySettings
from sidecar.settings.tables.core import (
    ConsulSettings,
    ControlPlaneSettings,
    DrainSettings,
    EnvoySettings,
    ListenSettings,
    LogSettings,
    ServiceSettings,
    TritonSettings,
)
from sidecar.settings.tables.drill import DrillSettings
from sidecar.settings.tables.election import ElectionSettings
from sidecar.settings.tables.gpu import GpuSettings
from sidecar.settings.tables.health import HealthSettings
from sidecar.settings.tables.models import ModelsSettings
from sidecar.settings.tables.notify import HooksSettings, NotifySettings
from sidecar.settings.tables.recovery import RecoverySettings
from sidecar.settings.values import Name, default_id


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
        """Only arguments: `sources.load` reads the other sources, to name them in errors."""
        return (init_settings,)


class SidecarSettings(_Settings):
    """Settings of `triton-sidecar run`."""

    service: ServiceSettings = ServiceSettings()
    triton: TritonSettings
    listen: ListenSettings = ListenSettings()
    health: HealthSettings = HealthSettings()
    gpu: GpuSettings = GpuSettings()
    recovery: RecoverySettings = RecoverySettings()
    canary: dict[str, CanarySettings] = {}
    election: ElectionSettings = ElectionSettings()
    hooks: HooksSettings = HooksSettings()
    notify: dict[Name, NotifySettings] = {}
    drain: DrainSettings = DrainSettings()
    drill: DrillSettings = DrillSettings()
    models: ModelsSettings = ModelsSettings()

    @model_validator(mode="after")
    def _canaries(self) -> Self:
        served, probed = set(self.triton.models), set(self.canary)
        unknown = sorted(probed - served)
        if unknown:
            raise ValueError(f"canary.{unknown[0]}: expected a model that triton.models names")
        return self

    @model_validator(mode="after")
    def _comparable(self) -> Self:
        kind = "files" if self.triton.repository else "triton"
        declared = self.election.model_set
        if declared and not declared.startswith(kind):
            with_or_without = "with" if self.triton.repository else "without"
            wanted = f"a digest {kind}-… {with_or_without} triton.repository"
            raise ValueError(f"election.model_set: expected {wanted}, found {declared!r}")
        if self.election.gpu_headroom and self.gpu.enabled == "off":
            raise ValueError('election.gpu_headroom: expected gpu.enabled other than "off"')
        return self

    @model_validator(mode="after")
    def _announceable(self) -> Self:
        if self.drill.allow and len(self.service.meta) >= MAX_META:
            raise ValueError(f"service.meta: expected fewer than {MAX_META} with drill.allow")
        return self

    @model_validator(mode="after")
    def _often_enough(self) -> Self:
        # Otherwise canaries would silently be sent later than their interval says.
        needed = len(self.triton.models) / self.health.every.canary
        if needed > self.health.rules.rate(len(self.triton.models)):
            raise ValueError(
                f"health.canary_rate: expected at least {needed:g}: a canary for each of "
                f"{len(self.triton.models)} models every {self.health.every.canary:g} s"
            )
        return self

    @model_validator(mode="after")
    def _in_time(self) -> Self:
        # Two renewals, each after a third of the TTL, may fail before the lease ends.
        if self.consul.timeout > self.election.session_ttl / 3:
            raise ValueError("consul.timeout: expected at most a third of election.session_ttl")
        return self

    @property
    def instance(self) -> str:
        """The instance's id; by default with the port, to tell a machine's Tritons apart."""
        return self.service.id or f"{default_id(self.service.name)}-{self.service_port}"

    @property
    def receivers(self) -> dict[str, Receiver]:
        """The HTTP receivers of notifications, by the names of their tables."""
        return {name: settings.receiver for name, settings in self.notify.items()}

    @property
    def service_port(self) -> int:
        """The port on which Envoys reach Triton."""
        return self.service.port or self.triton.port


class XdsSettings(_Settings):
    """Settings of `triton-sidecar xds`."""

    xds: ControlPlaneSettings = ControlPlaneSettings()
    envoy: EnvoySettings = EnvoySettings()


class OperatorSettings(_Settings):
    """The settings of operator commands, from the file of a sidecar or of a control plane."""

    # The other tables of such a file are ignored.
    model_config = SettingsConfigDict(extra="ignore")

    service: ServiceSettings = ServiceSettings()
    election: ElectionSettings = ElectionSettings()
    drain: DrainSettings = DrainSettings()
    models: ModelsSettings = ModelsSettings()
    xds: ControlPlaneSettings = ControlPlaneSettings()

    @model_validator(mode="after")
    def _unambiguous(self) -> Self:
        if "name" not in self.service.model_fields_set and len(self.xds.services) > 1:
            which = ", ".join(self.xds.services)
            raise ValueError(f"service.name: expected --service, which is one of {which}")
        return self

    @property
    def service_name(self) -> str:
        """The service that a command is about: the sidecar's, or the control plane's only one."""
        named = "name" in self.service.model_fields_set
        return self.service.name if named else self.xds.services[0]

    @property
    def control_plane(self) -> str:
        """The service under which the control planes register."""
        named = "control_plane" in self.drain.model_fields_set
        return self.drain.control_plane if named else self.xds.name


_TABLES = SidecarSettings.model_fields | XdsSettings.model_fields


def load_sidecar(path: Path | None, flags: Mapping[str, object] | None = None) -> SidecarSettings:
    """Settings of the sidecar from a TOML file, the environment and flags (`{"log.level": …}`).

    Raises:
        ConfigError: lists every mistake.
    """
    return sources.load(SidecarSettings, path, flags or {}, _TABLES)


def load_xds(path: Path | None, flags: Mapping[str, object] | None = None) -> XdsSettings:
    """Settings of the control plane; arguments and errors as for `load_sidecar`."""
    return sources.load(XdsSettings, path, flags or {}, _TABLES)


def load_operator(path: Path | None, flags: Mapping[str, object] | None = None) -> OperatorSettings:
    """Settings of operator commands; arguments and errors as for `load_sidecar`."""
    return sources.load(OperatorSettings, path, flags or {}, _TABLES)


@contextmanager
def in_use(
    cls: type[_Settings], path: Path | None, flags: Mapping[str, object] | None = None
) -> Iterator[None]:
    """Add the source of each key to mistakes that are found while settings are used.

    Such as a missing file, or an address that is already in use. Arguments as for `load_sidecar`.

    Raises:
        ConfigError: the original one, each line with its source.
    """
    try:
        yield
    except ConfigError as error:
        raise sources.named(error, cls, path, flags or {}, _TABLES) from error


def changes(before: _Settings, after: _Settings) -> set[str]:
    """The keys, as `table.key`, whose values differ."""
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
