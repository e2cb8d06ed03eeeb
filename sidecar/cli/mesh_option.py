"""Finds the mesh that an operator means: one of `local up`, or that of a settings file."""

from pathlib import Path

from sidecar.consul.access import ConsulAccess
from sidecar.local import meshfile
from sidecar.local.planning.plan import SERVICE
from sidecar.operator.target import Target
from sidecar.settings import load_operator


def of_mesh(place: Path, service: str | None = None) -> Target:
    """A mesh of `local up`.

    Raises:
        ConfigError: no mesh is running there.
    """
    consul = meshfile.load(place).consul
    access = ConsulAccess(address=consul.http, token_file=consul.token_file)
    return Target(access, service or SERVICE, "triton-sidecar-xds")


def of_settings(path: Path | None, service: str | None = None) -> Target:
    """The mesh that a settings file, the environment and the defaults describe.

    Raises:
        ConfigError: with every mistake at once.
    """
    settings = load_operator(path, {"service.name": service})
    return Target(
        settings.consul.access,
        settings.service_name,
        settings.control_plane,
        settings.election.model_set or "",
    )
