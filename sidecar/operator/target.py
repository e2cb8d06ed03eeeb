"""Where the mesh is that an operator means: its Consul, its service, its control planes."""

import getpass
import socket
from dataclasses import dataclass
from pathlib import Path

from sidecar.local import meshfile
from sidecar.local.plan import SERVICE
from sidecar.settings import load_operator
from sidecar.settings.tables import ConsulSettings


@dataclass(frozen=True, slots=True)
class Target:
    """`declared` is the digest of the model set that is declared, as far as it is known, or ""."""

    consul: ConsulSettings
    service: str
    control_plane: str
    declared: str = ""


def of_mesh(place: Path, service: str | None = None) -> Target:
    """A mesh of `local up`.

    Raises:
        ConfigError: no mesh is running there.
    """
    consul = meshfile.load(place).consul
    settings = ConsulSettings(address=consul.http, token_file=consul.token_file)
    return Target(settings, service or SERVICE, "triton-sidecar-xds")


def of_settings(path: Path | None, service: str | None = None) -> Target:
    """What a settings file, the environment and the defaults say.

    Raises:
        ConfigError: with every mistake at once.
    """
    settings = load_operator(path, {"service.name": service})
    return Target(
        settings.consul,
        settings.service_name,
        settings.control_plane,
        settings.election.model_set or "",
    )


def person() -> str:
    """Who gives orders here, as `user@host`."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a uid that nobody has given a name
        user = "somebody"
    return f"{user}@{socket.gethostname()}"
