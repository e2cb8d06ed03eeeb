"""Who is told of a change, and how. Durations are seconds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sidecar.runtime import credentials


@dataclass(frozen=True, slots=True)
class HookRules:
    """The commands that there are, by the key that names them, and how long each may take."""

    commands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    timeout: float = 10.0


@dataclass(frozen=True, slots=True)
class Receiver:
    """An address that JSON is posted to; what lets one in there is not in its `repr`.

    It hears of what `on` names. `timeout` is of one request, `retries` are the attempts after the
    first one, and `resend` is between two of an alert that lasts.
    """

    url: str = field(repr=False)
    kind: Literal["alertmanager", "json"] = "json"
    on: tuple[str, ...] = ("role", "verdict")
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    ca_file: Path | None = None
    timeout: float = 10.0
    retries: int = 5
    resend: float = 60.0

    def read_token(self, key: str) -> str | None:
        """The token, read from its file anew at each call; `key` names the setting in errors.

        Raises:
            ConfigError: the file cannot be read, or does not hold a token.
        """
        return credentials.resolve_token(self.token, self.token_file, f"{key}.token_file")
