"""The kinds of restart for an unhealthy Triton, made from settings. Times are seconds.

When to act, and within which bounds: `decision.RecoveryRules`.

Acts: through what it imports or is given.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sidecar.runtime import credentials


@dataclass(frozen=True, slots=True)
class Systemd:
    """Restart a unit. `kill` ends it with SIGKILL first, which frees the requests stuck in it."""

    unit: str
    user: bool = False
    kill: bool = False
    timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class Container:
    """Restart a container. `kill` leaves it no time to stop gracefully."""

    kind: Literal["docker", "podman"]
    container: str
    kill: bool = False
    timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class Nomad:
    """Restart one task of an allocation in place.

    `inherited` are files that only the environment names: they may be missing unless Nomad is
    reached through TLS.
    """

    task: str
    allocation: str
    address: str
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    inherited: frozenset[str] = frozenset()
    timeout: float = 30.0

    def read_token(self) -> str | None:
        """The ACL token, read again from its file at each call.

        Raises:
            ConfigError: the file cannot be read, or is empty.
        """
        return credentials.resolve_token(self.token, self.token_file, "recovery.action.token_file")


@dataclass(frozen=True, slots=True)
class Command:
    """Run a program; it must exit with 0."""

    command: tuple[str, ...]
    timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class Signal:
    """Signal a process: the one in `pid_file`, or without one the listener on triton.grpc.

    KILL goes to its child processes too, other signals only to itself. The action waits for its
    end.
    """

    signal: Literal["KILL", "TERM", "INT", "QUIT", "ABRT"] = "KILL"
    pid_file: Path | None = None
    timeout: float = 30.0


Restart = Systemd | Container | Nomad | Command | Signal
