"""`[recovery]`: what to do about a Triton that stays unhealthy, and how often."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from sidecar.recovery import rules
from sidecar.recovery.decision import FIXED_BY_RESTART, RecoveryRules
from sidecar.settings.values import Duration, Table, Whole, parse_duration
from sidecar.verdict.evidence import Level, Reason

_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_FILES = frozenset({"ca_file", "cert_file", "key_file"})
_NO_FAULT = frozenset({Reason.NOT_PROVEN_YET, Reason.DRAINING, Reason.MAINTENANCE})


def _name(value: str) -> str:
    # It becomes a program's argument; a leading dash would make it an option.
    if not re.fullmatch(r"[A-Za-z0-9_:.\\@][A-Za-z0-9_:.\\@-]*", value):
        raise ValueError("expected a name of letters, digits and _ : . @ -")
    return value


def _argv(value: object) -> object:
    if not isinstance(value, list | tuple) or not value:
        raise ValueError('expected a list such as ["/usr/local/bin/restart-triton", "0"]')
    return value


def _word(value: str) -> str:
    if not value or "\0" in value:
        raise ValueError("expected a string that is not empty and has no NUL")
    return value


def _absolute(value: Path) -> Path:
    if not value.is_absolute():
        raise ValueError("expected an absolute path")
    return value


def _reason(value: object) -> Reason:
    try:
        reason = Reason(str(value))
    except ValueError:
        raise ValueError("expected a reason code such as MODEL_HUNG") from None
    if reason in _NO_FAULT or reason.level is not Level.CRITICAL:
        raise ValueError("expected a reason code that makes an instance critical")
    return reason


def _allocation(value: str) -> str:
    if not re.fullmatch(_UUID, value):
        raise ValueError("expected an allocation's whole id, or NOMAD_ALLOC_ID in the environment")
    return value


def _nomad_address(value: str) -> str:
    if not re.fullmatch(r"https?://[^/\s]+/?|unix:(//)?/\S+", value):
        raise ValueError("expected http(s)://host:port or unix:///path")
    return value.rstrip("/")


def _path(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None


Argument = Annotated[str, AfterValidator(_name)]
# Unlike a Duration, it may be zero: at once.
Delay = Annotated[float, BeforeValidator(parse_duration), Field(ge=0, le=86400)]


class _Action(Table):
    timeout: Duration = 30.0


class SystemdAction(_Action):
    """Restart a unit. `kill` sends SIGKILL first, which releases the requests stuck in it."""

    kind: Literal["systemd"]
    unit: Argument
    user: bool = False
    kill: bool = False

    @property
    def restart(self) -> rules.Systemd:
        """The restart for `actions.build`."""
        return rules.Systemd(self.unit, self.user, self.kill, self.timeout)


class ContainerAction(_Action):
    """Restart a container. `kill` leaves it no time to stop gracefully."""

    kind: Literal["docker", "podman"]
    container: Argument
    kill: bool = False

    @property
    def restart(self) -> rules.Container:
        """The restart for `actions.build`."""
        return rules.Container(self.kind, self.container, self.kill, self.timeout)


class NomadAction(_Action):
    """Restart one task of an allocation in place; defaults come from Nomad's variables."""

    kind: Literal["nomad"]
    # Without a task Nomad would restart all of them, the sidecar included.
    task: Argument
    allocation: Annotated[str, AfterValidator(_allocation)] = Field(
        default_factory=lambda: os.environ.get("NOMAD_ALLOC_ID", ""), validate_default=True
    )
    address: Annotated[str, AfterValidator(_nomad_address)] = Field(
        default_factory=lambda: os.environ.get("NOMAD_ADDR", "http://127.0.0.1:4646"),
        validate_default=True,
    )
    token: SecretStr | None = None
    token_file: Path | None = None
    ca_file: Path | None = Field(default_factory=lambda: _path("NOMAD_CACERT"))
    cert_file: Path | None = Field(default_factory=lambda: _path("NOMAD_CLIENT_CERT"))
    key_file: Path | None = Field(default_factory=lambda: _path("NOMAD_CLIENT_KEY"))

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.token and self.token_file:
            raise ValueError("token and token_file: expected one of them, not both")
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("cert_file and key_file: expected both or none")
        return self

    @property
    def restart(self) -> rules.Nomad:
        """The restart for `actions.build`; without a token the one that NOMAD_TOKEN holds."""
        token = self.token.get_secret_value() if self.token else os.environ.get("NOMAD_TOKEN")
        return rules.Nomad(
            task=self.task,
            allocation=self.allocation,
            address=self.address,
            token=token or None,
            token_file=self.token_file,
            ca_file=self.ca_file,
            cert_file=self.cert_file,
            key_file=self.key_file,
            inherited=_FILES - self.model_fields_set,
            timeout=self.timeout,
        )


class CommandAction(_Action):
    """Run a program; it has to exit with status 0."""

    kind: Literal["command"]
    command: Annotated[tuple[Annotated[str, AfterValidator(_word)], ...], BeforeValidator(_argv)]

    @property
    def restart(self) -> rules.Command:
        """The restart for `actions.build`."""
        return rules.Command(self.command, self.timeout)


class SignalAction(_Action):
    """Signal a process: the one in `pid_file`, or the one that listens on triton.grpc.

    KILL goes to the process and its descendants, other signals to the process alone; recovery waits
    for its end.
    """

    kind: Literal["signal"]
    signal: Literal["KILL", "TERM", "INT", "QUIT", "ABRT"] = "KILL"
    pid_file: Annotated[Path, AfterValidator(_absolute)] | None = None
    listener: bool = False

    @model_validator(mode="after")
    def _one(self) -> Self:
        if bool(self.pid_file) == self.listener:
            raise ValueError("expected exactly one of pid_file and listener = true")
        return self

    @property
    def restart(self) -> rules.Signal:
        """The restart for `actions.build`."""
        return rules.Signal(self.signal, self.pid_file, self.timeout)


AnyAction = SystemdAction | ContainerAction | NomadAction | CommandAction | SignalAction
_KINDS: Mapping[object, type[AnyAction]] = {
    "systemd": SystemdAction,
    "docker": ContainerAction,
    "podman": ContainerAction,
    "nomad": NomadAction,
    "command": CommandAction,
    "signal": SignalAction,
}


def _of_kind(value: object) -> object:
    """The action that `kind` names. Errors keep their own keys, unlike in pydantic's unions."""
    if value is None or isinstance(value, _Action):
        return value
    if not isinstance(value, Mapping):
        raise ValueError('expected a table such as { kind = "systemd", unit = "triton.service" }')
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        found = f", found {kind!r:.80}" if kind is not None else ""
        raise ValueError(f"kind: expected one of {', '.join(map(str, _KINDS))}{found}")
    return _KINDS[kind].model_validate(value)


class RecoverySettings(Table):
    """When to act on a Triton that stays critical; without an action, recovery only loads models.

    `sidecar/recovery/decision.py` and docs/recovery.md explain each bound.
    """

    action: Annotated[AnyAction | None, BeforeValidator(_of_kind)] = None
    after: Delay = 30.0
    hung_after: Delay | None = None
    unanswered_after: Delay | None = None
    reasons: (
        Annotated[tuple[Annotated[Reason, BeforeValidator(_reason)], ...], Field(min_length=1)]
        | None
    ) = None
    budget: Whole = Field(default=3, ge=1, le=1000)
    pause: Duration = 30.0
    max_pause: Duration = 600.0
    grace: Delay = 60.0
    forget_after: Duration = 600.0
    dry_run: bool = False
    allow_others_down: bool = False
    # Whether to load a served model that is not loaded, if Triton is in explicit mode; and how long
    # a load may take.
    load: bool = True
    load_timeout: Duration = 300.0

    @model_validator(mode="after")
    def _growing(self) -> Self:
        if self.max_pause < self.pause:
            raise ValueError(
                f"max_pause: expected at least pause, which is {self.pause:g} s,"
                f" found {self.max_pause:g} s"
            )
        return self

    @property
    def rules(self) -> RecoveryRules:
        """When to act, for `decision.decide`. Without an action nothing is a reason for one."""
        reasons = FIXED_BY_RESTART if self.reasons is None else frozenset(self.reasons)
        hung_after = self.after if self.hung_after is None else self.hung_after
        unanswered = self.unanswered_after
        return RecoveryRules(
            after=self.after,
            hung_after=hung_after,
            unanswered_after=hung_after if unanswered is None else unanswered,
            reasons=reasons if self.action else frozenset(),
            budget=self.budget,
            pause=self.pause,
            max_pause=self.max_pause,
            grace=self.grace,
            forget_after=self.forget_after,
            dry_run=self.dry_run,
            allow_others_down=self.allow_others_down,
            load=self.load,
            load_timeout=self.load_timeout,
        )
