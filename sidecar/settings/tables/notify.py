"""`[hooks]` and `[notify.NAME]`: what is notified of changes of role or verdict, and of drills."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from sidecar.notify.rules import HookRules, Receiver
from sidecar.settings.values import Duration, Table, Whole

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105  # what HTTP allows in a header's name
_OURS = frozenset({"content-type", "content-length", "host", "transfer-encoding"})


def _argv(value: object) -> object:
    if not isinstance(value, list | tuple) or not value:
        raise ValueError('expected a list such as ["/usr/local/bin/page", "--quiet"]')
    return value


def _word(value: str) -> str:
    if not value or "\0" in value:
        raise ValueError("expected a string that is not empty and has no NUL")
    return value


def _headers(value: object) -> object:
    """Validate the table as a whole: pydantic's error for a single value would quote it."""
    if not isinstance(value, Mapping):
        raise ValueError("expected a table of headers, found something else")
    for name, text in value.items():
        if not re.fullmatch(_TOKEN, str(name)) or str(name).lower() in _OURS:
            raise ValueError("expected names of headers that are not set automatically")
        text = text.get_secret_value() if isinstance(text, SecretStr) else text
        if not isinstance(text, str) or not text.isprintable():
            raise ValueError(f"{name}: expected a line of text")
    return value


Command = Annotated[tuple[Annotated[str, AfterValidator(_word)], ...], BeforeValidator(_argv)]


class HooksSettings(Table):
    """Programs that get a JSON document on standard input; they run without a shell."""

    on_role_change: Command | None = None
    on_verdict_change: Command | None = None
    on_drill: Command | None = None
    timeout: Duration = 10.0

    @property
    def rules(self) -> HookRules:
        """The rules for `Notifier`."""
        found = {
            "on_role_change": self.on_role_change,
            "on_verdict_change": self.on_verdict_change,
            "on_drill": self.on_drill,
        }
        return HookRules({key: argv for key, argv in found.items() if argv}, self.timeout)


class NotifySettings(Table):
    """A URL that JSON is posted to. It may contain credentials, so it is a secret."""

    url: SecretStr
    kind: Literal["alertmanager", "json"] = "json"
    on: tuple[Literal["role", "verdict", "drill"], ...] = Field(
        default=("role", "verdict", "drill"), min_length=1
    )
    headers: Annotated[dict[str, SecretStr], BeforeValidator(_headers)] = Field(default={})
    token: SecretStr | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    # Of one request, from first byte to last.
    timeout: Duration = 10.0
    # After so many retries newer changes come first.
    retries: Whole = Field(default=5, ge=0, le=100)
    # The interval at which an active alert is sent again; it expires after four times as long.
    resend: Annotated[Duration, Field(ge=1, le=3600)] = 60.0

    @model_validator(mode="after")
    def _complete(self) -> Self:
        _check_url(self.url.get_secret_value())
        if self.token is not None:
            secret = self.token.get_secret_value()
            if not secret or not secret.isprintable() or not secret.isascii():
                raise ValueError("token: expected printable ASCII on a single line")
        if self.token and self.token_file:
            raise ValueError("token and token_file: expected one of them, not both")
        named = any(name.lower() == "authorization" for name in self.headers)
        if named and (self.token or self.token_file):
            raise ValueError("headers: expected no Authorization with a token")
        return self

    @property
    def receiver(self) -> Receiver:
        """The receiver for `Notifier`."""
        return Receiver(
            url=self.url.get_secret_value(),
            kind=self.kind,
            on=self.on,
            headers={name: value.get_secret_value() for name, value in self.headers.items()},
            token=self.token.get_secret_value() if self.token else None,
            token_file=self.token_file,
            ca_file=self.ca_file,
            timeout=self.timeout,
            retries=self.retries,
            resend=self.resend,
        )


def _check_url(url: str) -> None:
    """Validate a URL; errors do not quote it."""
    wanted = "url: expected http(s)://host[:port]/path"
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(wanted)
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        raise ValueError(wanted) from None
    if not sound:
        raise ValueError(wanted)
    if "@" in parts.netloc:
        raise ValueError("url: expected no user and password in it: use headers or token_file")
