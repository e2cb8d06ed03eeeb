"""The mesh that an operator means: its Consul, its service, its control planes.

Acts: socket.
"""

import getpass
import socket
from dataclasses import dataclass

from sidecar.consul.access import ConsulAccess


@dataclass(frozen=True, slots=True)
class Target:
    """A mesh; `declared` is the digest of its declared model set, "" if none is known."""

    consul: ConsulAccess
    service: str
    control_plane: str
    declared: str = ""


def operator_name() -> str:
    """The operator as `user@host`."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a uid without a name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
