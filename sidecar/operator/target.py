"""Where the mesh is that an operator means: its Consul, its service, its control planes."""

import getpass
import socket
from dataclasses import dataclass

from sidecar.consul.access import ConsulAccess


@dataclass(frozen=True, slots=True)
class Target:
    """`declared` is the digest of the model set that is declared, as far as it is known, or ""."""

    consul: ConsulAccess
    service: str
    control_plane: str
    declared: str = ""


def operator_name() -> str:
    """Who gives orders here, as `user@host`."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a uid that nobody has given a name
        user = "somebody"
    return f"{user}@{socket.gethostname()}"
