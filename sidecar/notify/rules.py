"""The hooks and receivers of notifications, made from settings. Durations are seconds.

Acts: through what it imports or is given.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sidecar.runtime import credentials


@dataclass(frozen=True, slots=True)
class HookRules:
    """The commands by their setting's key, and how long each may take."""

    commands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    timeout: float = 10.0


@dataclass(frozen=True, slots=True)
class Receiver:
    """An address that JSON is posted to; its secrets are not in its `repr`.

    It gets changes of the subjects in `on`. `timeout` is for one request, `retries` are the
    attempts after the first, and `resend` is the time between repetitions of a lasting alert.
    """

    url: str = field(repr=False)
    kind: Literal["alertmanager", "json"] = "json"
    on: tuple[str, ...] = ("role", "verdict", "drill")
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    ca_file: Path | None = None
    timeout: float = 10.0
    retries: int = 5
    resend: float = 60.0

    def read_token(self, key: str) -> str | None:
        """The token, read again from its file at each call; `key` names the setting in errors.

        Raises:
            ConfigError: the file cannot be read, or does not hold a token.
        """
        return credentials.resolve_token(self.token, self.token_file, f"{key}.token_file")
